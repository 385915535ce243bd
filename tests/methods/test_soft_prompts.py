"""Our soft prompts as methods: they learn, may be bounded, go on after a kill, and count all that they took."""

import json
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from softprompt.methods.method import Effort
from softprompt.methods.prompt_runs import course_of, with_effort
from softprompt.methods.soft_prompts import DEEP, P_TUNING, PREFIX, SOFT
from softprompt.tasks.load import load_task
from softprompt.tasks.task import Example
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows
from softprompt.training import trainer
from softprompt.training.bank import gradients
from softprompt.training.budget import Spent
from softprompt.training.config import RATE, TrainConfig
from softprompt.training.runs import RunFolder


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone("llama")


@pytest.fixture(scope="module")
def task():
    return load_task({"train": toy_rows(96), "validation": toy_rows(40, 1), "test": toy_rows(40, 2)}, name="toy")


@pytest.fixture(scope="module")
def deep(backbone, task):
    return DEEP.fit(backbone, task, 0, Effort(readout="rows", examples=2400))


def accuracy(found, task):
    rows = task.splits["test"]
    gold = [task.labels.index(row.label) for row in rows]
    return (found.predictor.log_probabilities(rows).argmax(1) == gold).mean()


def test_a_deep_prompt_learns_the_toy_task(task, deep):
    assert accuracy(deep, task) > 0.75
    assert deep.loss < np.log(2)
    assert deep.trained == 2 * 2 * 2 * 20 * 12 + 2 * 48 + 2  # layers, keys and values, heads, P, K; rows and bias
    assert deep.kept_bytes > 4 * deep.trained
    assert "what trained is `deep` + learned rows, P = 20" in deep.notes


def test_its_course_is_that_of_its_run(deep):
    course = deep.course
    assert (course.steps, course.examples) == (100, 2400)
    assert [point.step for point in course.points] == [60, 66, 100]
    assert [point.examples for point in course.points] == [1440, 1584, 2400]
    assert 0 < course.points[0].seconds < course.points[-1].seconds == course.seconds
    assert course.stopped == "all steps done"


def test_a_row_is_answered_alone_as_in_a_batch(task, deep):
    rows = task.splits["test"]
    alone = np.concatenate([deep.predictor.log_probabilities([row]) for row in rows])
    assert deep.predictor.log_probabilities(rows) == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize(("method", "kind"), [(SOFT, "deep"), (P_TUNING, "lstm"), (PREFIX, "deep-mlp")])
def test_each_kind_trains_and_is_kept_folded(backbone, task, method, kind):
    found = method.fit(backbone, task, 0, Effort(examples=96))
    assert found.course.steps == 4
    assert any(f"what trained is `{kind}`, P = 20" in note for note in found.notes)
    sites = set(found.predictor.bound.tensors)
    assert sites == ({"input"} if kind == "lstm" else {f"layers.{n}.{s}" for n in (0, 1) for s in ("key", "value")})
    folded = sum(tensor.numel() for tensor in found.predictor.bound.tensors.values())
    assert (found.trained > folded) == (kind != "deep")  # a network is trained and not kept


def test_only_the_default_in_full_and_at_its_own_rate_races(task):
    assert SOFT.config(task, 0, Effort()).race
    assert SOFT.config(task, 0, Effort()).learning_rate is None
    for effort in (Effort(rate=3), Effort(share=1 / 3), Effort(examples=4_000)):
        assert not SOFT.config(task, 0, effort).race
    assert not DEEP.config(task, 0, Effort()).race
    assert SOFT.config(task, 0, Effort(rate=3)).learning_rate == pytest.approx(3 * RATE)
    assert SOFT.config(task, 0, Effort(readout="rows")).learned_rows is True
    assert SOFT.config(task, 5, Effort(readout="words")).learned_rows is False
    assert SOFT.config(task, 5, Effort()).seed == 5


@pytest.mark.parametrize(
    ("effort", "steps", "extend"),
    [
        (Effort(), None, None),
        (Effort(share=1 / 3), 60, 0),
        (Effort(examples=2_400), 100, 0),
        (Effort(examples=14_000), 180, 1),
        (Effort(examples=100_000), None, None),
        (Effort(share=1 / 3, examples=240), 10, 0),
        (Effort(seconds=90), 180, None),
    ],
)
def test_bounds_shorten_a_run(effort, steps, extend):
    many = SimpleNamespace(labels=("a", "b"), splits={"train": [Example({}, "a"), Example({}, "b")] * 3000})
    found = with_effort(TrainConfig(), many, 0, effort)
    assert (found.steps, found.extend) == (steps, extend)
    assert found.budget == ("90 seconds" if effort.seconds else None)


def test_a_killed_run_goes_on_in_its_folder_to_the_same_bytes(backbone, task, tmp_path, monkeypatch):
    effort = Effort(examples=24 * 12, folder=tmp_path / "whole")
    whole = DEEP.fit(backbone, task, 3, effort)
    calls = []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 7:
            signal.raise_signal(signal.SIGINT)
        return gradients(*arguments)

    monkeypatch.setattr(trainer, "gradients", killed)
    effort = replace(effort, folder=tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        DEEP.fit(backbone, task, 3, effort)
    again = DEEP.fit(backbone, task, 3, effort)
    assert len(calls) == 12  # nothing was done twice
    assert again.predictor.bound.key == whole.predictor.bound.key
    assert again.course.examples == whole.course.examples == 24 * 12
    assert [point.step for point in again.course.points] == [point.step for point in whole.course.points]


def test_a_checkpoint_that_cannot_be_gone_on_from_is_no_failure(backbone, task, tmp_path, capsys):
    effort = Effort(examples=24 * 3, folder=tmp_path)
    DEEP.fit(backbone, task, 3, effort)
    other = DEEP.fit(backbone, task, 4, effort)
    assert "starting anew: cannot resume" in capsys.readouterr().err
    alone = DEEP.fit(backbone, task, 4, Effort(examples=24 * 3))
    assert other.predictor.bound.key == alone.predictor.bound.key


def test_what_raced_beside_the_winner_is_counted(tmp_path):
    folder = RunFolder(tmp_path)
    events = [
        {"event": "step", "step": 1, "prompt": "a", "examples_per_second": 48.0},
        {"event": "step", "step": 1, "prompt": "b", "examples_per_second": 48.0},
        {"event": "validation", "step": 1, "prompt": "a", "loss": 0.5, "accuracy": 0.7},
        {"event": "step", "step": 2, "prompt": "b", "examples_per_second": 24.0},
        {"event": "validation", "step": 2, "prompt": "b", "loss": 0.25, "accuracy": 0.9},
        {"event": "race", "step": 2, "winner": "b"},
    ]
    folder.metrics.write_text("".join(json.dumps(event) + "\n" for event in events))
    done = SimpleNamespace(steps=2, stopped="all steps done")
    kept = SimpleNamespace(config=TrainConfig(), fit=done, spent=Spent(172, 9.0))  # 100 of them on folds before
    course = course_of(kept, folder, 240)
    assert (course.steps, course.examples, course.seconds) == (2, 172, 2.0)
    (point,) = course.points
    assert (point.step, point.examples, point.seconds, point.loss) == (2, 172, 2.0, 0.25)


def test_what_they_cannot_do_is_said(backbone, task):
    plain = replace(task, template=Template("{bos}Text: {text}\nLabel:"), default_template=False)
    assert "has no {soft} slot for virtual tokens" in SOFT.refuses(backbone, plain)
    alibi = tiny_backbone("bloom")
    if "deep-prompts" not in alibi.capabilities:
        assert "takes no keys and values from outside" in DEEP.refuses(alibi, task)
    assert SOFT.refuses(backbone, task) is None
    rows = [{"text": f"row {n}", "score": n / 9} for n in range(10)]
    assert "one label" in SOFT.refuses(backbone, load_task(rows, label="score", kind="regression"))

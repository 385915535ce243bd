"""One cell: a method that is fitted, judged and measured; what fails is an outcome that says why."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from softprompt.errors import BackboneError, MissingExtraError, OutOfMemoryError, StorageError, TrainingError
from softprompt.experiments.compare import cell as comparison_cell
from softprompt.experiments.compare.cell import answered, described, run, why_it_failed
from softprompt.experiments.compare.cells import Ask
from softprompt.experiments.compare.outcomes import CompareCell, Outcome
from softprompt.experiments.compare.surroundings import surroundings
from softprompt.methods import catalogue
from softprompt.methods.costs import Speed
from softprompt.methods.documented import TrainingSpeed
from softprompt.methods.measuring import Measured
from softprompt.methods.method import Course, Fitted, Point
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows


@dataclass
class Knows:
    """Says `positive` with a probability that it was told."""

    sure: float

    def log_probabilities(self, examples):
        return np.log(np.tile([1 - self.sure, self.sure], (len(examples), 1)))


@dataclass
class Fake:
    sure: float = 0.75
    refusal: str | None = None
    error: Exception | None = None
    readouts: tuple[str, ...] = ("words", "rows")
    seen: list[Any] = field(default_factory=list)

    def refuses(self, backbone, task):
        return self.refusal

    def fit(self, backbone, task, seed, effort):
        self.seen.append((task, seed, effort))
        if self.error is not None:
            raise self.error
        course = Course(3, 12, 0.5, "it was enough", (Point(3, 12, 0.5, 0.4, 0.75),))
        return Fitted(Knows(self.sure), 10, 40, 0.4, course, off=nullcontext, notes=("fitted",))


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "toy.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in toy_rows(100)))
    return str(file)


@pytest.fixture
def call(source, tmp_path, monkeypatch):
    def ran(method, role="main", readout="rows", rate=3.0, **more):
        monkeypatch.setattr(catalogue, "method", lambda name: method)
        cell = CompareCell("toy", "fake", readout, 1, role, rate, more.pop("rows", 0))
        ask = Ask(cell, source, "tiny", str(tmp_path / "work" / "cell"), origin={"rows": 40}, **more)
        return run(Ask(**{**vars(ask), "rows": 40}), load=lambda *_, **__: tiny_backbone("llama"))

    return ran


def test_a_main_cell_is_fitted_and_judged(call, tmp_path):
    method = Fake()
    found = call(method, notes=("mind",), examples=99, seconds=7.0)
    task, seed, effort = method.seen[0]
    assert (len(task.splits["train"]), seed, effort.rate, effort.readout) == (40, 1, 3.0, "rows")
    assert (effort.examples, effort.seconds, effort.folder) == (99, 7.0, tmp_path / "work" / "cell")
    assert found.labels == ("negative", "positive")
    assert found.gold == tuple(int(row.label == "positive") for row in task.splits["test"])
    assert set(found.predicted) == {1}
    assert set(found.confidence) == {0.75}
    assert {round(value, 4) for value in found.gold_log} == {-0.2877, -1.3863}
    own = sum(weight.numel() for weight in tiny_backbone("llama").model.parameters())
    assert (found.trained, found.share, found.kept_bytes, found.validation_loss) == (10, 10 / own, 40, 0.4)
    assert found.course["points"][0]["accuracy"] == 0.75
    assert found.peak >= found.loaded > 0
    assert found.notes[:2] == ("mind", "fitted")
    assert (found.origin, found.failed, found.speed, found.forgetting) == ({"rows": 40}, None, None, None)
    assert {"commit", "machine", "versions"} == set(found.provenance)
    found.write(tmp_path / "outcome.json")
    assert Outcome.read(tmp_path / "outcome.json").gold == found.gold


def test_a_search_cell_is_not_judged(call):
    method = Fake(readouts=())
    found = call(method, role="search", readout="", share=1 / 3)
    assert (found.gold, found.validation_loss, method.seen[0][2].share) == ((), 0.4, 1 / 3)
    assert method.seen[0][2].readout == "words"


def test_a_cell_on_few_rows_is_chosen_by_as_few(call):
    method = Fake()
    call(method, role="data", rows=4)
    assert [len(rows) for rows in method.seen[0][0].splits.values()] == [4, 4, 20]


def test_the_first_main_cell_measures_speed_and_forgetting(call, monkeypatch):
    monkeypatch.setattr(comparison_cell, "measure_speed", lambda *_: Measured(1.0, 2.0, None, 0.0, ("alone",)))
    found = call(Fake(), measured=True)
    assert found.speed == Speed(1.0, 2.0, None, 0.0)
    assert found.forgetting.before == found.forgetting.off == found.forgetting.on > 1
    assert "alone" in found.notes


def test_what_cannot_be_measured_is_a_note(call, monkeypatch):
    def breaks(*given):
        raise RuntimeError("no\nclock")

    monkeypatch.setattr(comparison_cell, "measure_speed", breaks)
    monkeypatch.setattr(comparison_cell, "perplexity", breaks)
    found = call(Fake(), measured=True)
    assert (found.failed, found.speed, found.forgetting) == (None, None, None)
    assert found.notes[-2:] == (
        "its speed could not be measured: no clock", "its forgetting could not be measured: no clock",
    )  # fmt: skip


def test_training_as_peft_documents_it_is_timed_beside_one_method_alone(call, monkeypatch):
    speeds = [TrainingSpeed(20.0, 4.0, 5.0, steps=20)]
    monkeypatch.setattr(comparison_cell, "measure_speed", lambda *_: Measured(1.0, 2.0, None, 0.0))
    monkeypatch.setattr(comparison_cell, "documented_speed", lambda *_: speeds.pop())
    assert len(call(Fake(), measured=True).notes) == 1
    monkeypatch.setattr(comparison_cell, "DOCUMENTED", "fake")
    assert call(Fake(), measured=True).notes[-1].startswith("trained as PEFT documents it, prompt tuning learns from 4")
    found = call(Fake(), measured=True)
    assert (found.failed, found.notes[-1]) == (None, "its documented training could not be timed: pop from empty list")


def test_a_task_that_the_method_refuses(call):
    found = call(Fake(refusal="the labels begin alike"))
    assert (found.failed, found.again, found.labels) == ("the labels begin alike", False, ("negative", "positive"))


@pytest.mark.parametrize(
    ("error", "failed", "again"),
    [
        (TrainingError("the loss is not finite"), "the loss is not finite", False),
        (OutOfMemoryError("a step does not fit"), "a step does not fit", True),
        (torch.OutOfMemoryError("no memory"), "OutOfMemoryError: no memory", True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "RuntimeError: DefaultCPUAllocator: can't", True),
        (MissingExtraError("setfit is not installed"), "setfit is not installed", True),
        (StorageError("no space left on the disk"), "no space left on the disk", True),
        (KeyError("layer"), "KeyError: 'layer'", True),
    ],
)
def test_a_method_that_fails_says_why(call, error, failed, again):
    found = call(Fake(error=error))
    assert found.failed.startswith(failed)
    assert (found.again, found.gold) == (again, ())
    assert why_it_failed(error)["again"] == again


def test_probabilities_that_are_no_numbers_and_those_that_are_nothing(call):
    with np.errstate(invalid="ignore", divide="ignore"):
        assert call(Fake(sure=2.0)).failed == "of 20 test rows 20 have no probabilities: they are not finite"
        assert min(call(Fake(sure=1.0)).gold_log) == -50.0


def test_what_a_backbone_is():
    facts = described("tiny", None, None, load=lambda *_, **__: tiny_backbone("llama"))
    assert (facts["dtype"], facts["device"]) == ("float32", "cpu")
    assert facts["fingerprint"] == tiny_backbone("llama").fingerprint.to_json()
    assert facts["seconds a token"] > 0
    assert described("t", None, None, load=lambda *_, **__: tiny_backbone("t5"))["seconds a token"] is None

    def gone(*_, **__):
        raise BackboneError("it is gone")

    assert described("x", None, None, load=gone) == {"error": "BackboneError", "message": "it is gone"}


def test_a_gpu_is_named_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "gpu" not in surroundings()["machine"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H100")
    assert surroundings()["machine"]["gpu"] == "H100"


def test_questions_are_answered(monkeypatch, tmp_path):
    monkeypatch.setattr(comparison_cell, "run", lambda ask: Outcome(ask.cell, failed="nothing was done"))
    ask = Ask(CompareCell("toy", "fake", "", 0, "main"), "toy.csv", "tiny", str(tmp_path / "work" / "cell"))
    assert answered(ask.to_json()) == {"written": True}
    assert Outcome.read(ask.file).failed == "nothing was done"
    assert answered({"backbone": str(tmp_path / "x"), "device": None, "dtype": None})["error"] == "BackboneError"

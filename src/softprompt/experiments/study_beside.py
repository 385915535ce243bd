"""One cell of a study that is no soft prompt: another method of the catalogue, judged on the same rows."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from softprompt.backbones.backbone import Backbone
from softprompt.errors import MissingExtraError
from softprompt.experiments.study_cells import Measured, subject
from softprompt.experiments.study_grid import Cell
from softprompt.experiments.trials import FAILURES, failure, long_enough, most_steps, without_test
from softprompt.methods.catalogue import method
from softprompt.methods.method import Effort, Point
from softprompt.tasks.task import Example, Task
from softprompt.training.config import TrainConfig


def fresh(backbone: Backbone) -> Backbone:
    """Return a backbone with weights of its own, which a method may change."""
    return Backbone(copy.deepcopy(backbone.model), backbone.tokenizer, name=backbone.name)


def measure_beside(
    cell: Cell, backbone: Backbone, task: Task, config: TrainConfig, rows: Sequence[Example], folder: Path
) -> Measured:
    """Fit another method and judge it; a cell that cannot be trained says why.

    Args:
        cell: which; its `method` names what is fitted.
        backbone: of its own.
        task: its test rows are not handed to the training.
        config: the settings of the soft prompts: as many rows are learned from at most as by these.
        rows: labelled rows to judge it on.
        folder: of its run.
    """
    about = subject(cell, backbone)
    taken = method(cell.method)
    refused = taken.refuses(backbone, task)
    if refused is not None:
        return Measured(**about, failed=refused)
    most = most_steps(long_enough(config, task)) * config.batch_size
    effort = Effort(examples=most, folder=folder / "checkpoint")
    try:
        fitted = taken.fit(backbone, without_test(task), cell.seed, effort)
        scores = fitted.predictor.log_probabilities(rows)
    except (*FAILURES, MissingExtraError) as error:
        return Measured(**about, **failure(error))
    gold = [task.labels.index(str(row.label)) for row in rows]
    course = fitted.course
    return Measured(
        **about,
        right="".join("01"[int(at == place)] for at, place in zip(scores.argmax(1), gold, strict=True)),
        loss=float(-np.mean(scores[np.arange(len(gold)), gold])),
        step=_best(course.points),
        steps=course.steps,
        examples=course.examples,
        seconds=course.seconds,
    )


def _best(points: Sequence[Point]) -> int:
    """The step of the lowest validation loss, whose state is the one that is kept."""
    return min(points, key=lambda point: point.loss).step if points else 0

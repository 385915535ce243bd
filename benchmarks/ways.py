"""The library's ways to train, as the benchmarks call them: the one place that knows their names and settings."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from softprompt.training.config import TrainConfig
from softprompt.training.train import train

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.tasks.task import Task

FEW = 24


class Pace(NamedTuple):
    """What a training took by its own clock."""

    examples: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.examples / self.seconds


def plain(steps: int, **options: Any) -> TrainConfig:
    """Settings of one run without a race, a report or an early stop: steps and little else."""
    given = {"parameterization": "direct", "learned_rows": False, **options}
    return TrainConfig(
        race=False,
        report=False,
        steps=steps,
        validate_every=10**6,
        validation_rows=FEW,
        checkpoint_every=10**6,
        **given,
    )


def lean(task: Task) -> Task:
    """The task with few validation and test rows, so that a short run spends its time on its steps."""
    return replace(task, splits={name: rows if name == "train" else rows[:FEW] for name, rows in task.splits.items()})


def run_one(backbone: Backbone, task: Task, config: TrainConfig, folder: Path) -> Pace:
    """One run by itself."""
    fit = train(backbone, task, config, run=folder / str(time.monotonic_ns())).fit
    return Pace(fit.examples, fit.seconds)


def run_bank(backbone: Backbone, task: Task, configs: Sequence[TrainConfig], folder: Path) -> None:
    """A bank of runs in one pass."""
    from softprompt.training.many import train_many

    fits = train_many(backbone, task, configs, run=folder / str(time.monotonic_ns()))
    assert len(fits) == len(configs)


def winner(recipe: Mapping[str, Any], **options: Any) -> TrainConfig:
    """The settings of a plain run of what a race chose, from the recipe that the prompt remembers."""
    known = {key: value for key, value in recipe.items() if key in TrainConfig.model_fields and value is not None}
    return TrainConfig(**{**known, "race": False, "budget": None, **options})

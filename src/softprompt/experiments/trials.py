"""One training among many: plain, without a report, and without the test rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from softprompt.backbones.backbone import Backbone
from softprompt.errors import ConfigError, DataError, MissingExtraError, TemplateError, TrainingError
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.task import Task
from softprompt.training.candidates import default_steps, even_labels
from softprompt.training.config import TrainConfig
from softprompt.training.runs import RunFolder, resumed_or_anew
from softprompt.training.train import TrainResult, train

SINGLE: dict[str, Any] = {"race": False, "extend": 0}
"""What makes a training one plain run, of no more steps than it has."""
PAPER: dict[str, Any] = {"parameterization": "direct", "learned_rows": False}
"""What papers on prompt tuning train: virtual tokens at the input, and nothing else."""


FAILURES = (TrainingError, TemplateError, ConfigError, MemoryError, torch.OutOfMemoryError)
"""What ends one training of an experiment and not the experiment."""


def failure(error: BaseException) -> dict[str, Any]:
    """Return why a training gave nothing, and whether it may be tried `again`.

    Memory that is full, or a library that is missing, is not its fault.
    """
    again = isinstance(error, MemoryError | torch.OutOfMemoryError | MissingExtraError)
    return {"failed": " ".join(str(error).split()) or type(error).__name__, "again": again}


def refuse_several(config: TrainConfig | None, what: str, *, timed: bool = True) -> None:
    """Refuse settings that would make more of a training than one plain run.

    Args:
        config: the settings that all trainings of the experiment share.
        what: the experiment, for the message.
        timed: whether each may have a budget of its own.

    Raises:
        ConfigError: a race, an ensemble, or a budget that may not be.
    """
    given = explicit(config)
    several = {"race": given["race"], "ensemble": given.get("ensemble", 1) > 1}
    for name in [name for name, asked in several.items() if asked]:
        raise ConfigError(
            f"`{name}` is {given[name]}, and each training of a {what} is one plain run; leave {name} out, and use it "
            "with the settings that are found"
        )
    if not timed and given.get("budget"):
        raise ConfigError(
            f"the budget is `{given['budget']}`, and the trainings of a {what} are compared at the same number of "
            "steps; give steps instead"
        )


def most_steps(config: TrainConfig) -> int:
    """Return the steps that a training may take, each time that it goes on, for twice as long, counted.

    >>> most_steps(TrainConfig(steps=100, extend=0)), most_steps(TrainConfig(steps=100, extend=2))
    (100, 700)
    """
    return config.length * ((2 << (config.extend or 0)) - 1)


def long_enough(config: TrainConfig, task: Task) -> TrainConfig:
    """Return the settings with the steps decided that a training on a task takes where none were asked for."""
    train = task.splits["train"]
    steps = config.steps or default_steps(even_labels(task.labels, train), len(train), config.batch_size)
    return config.model_copy(update={"steps": steps})


def without_test(task: Task) -> Task:
    """Return the task as an experiment may see it: train and validation, no test rows at all.

    Raises:
        DataError: there are no validation rows, by which alone an experiment may choose.
    """
    if not task.splits.get("validation"):
        raise DataError(f"the task `{task.name}` has no validation rows to choose by; give it a validation split")
    kept = {split: task.splits[split] for split in ("train", "validation")}
    # `given` keeps `test`: a small task without one would be fitted on all rows and cross-fitted.
    return replace(task, splits=kept, given=task.given | {"test"})


def plain(config: TrainConfig | None, settings: Mapping[str, Any]) -> TrainConfig:
    """Return the settings of one training of an experiment: the common ones, its own, and no report."""
    return TrainConfig.read(**{**explicit(config), **settings, "report": False})


def explicit(config: TrainConfig | None) -> dict[str, Any]:
    """Return the settings that were chosen, as plain values, and those of one plain run where nothing was."""
    chosen = config.model_dump(mode="json", exclude_unset=True, exclude={"report"}) if config else {}
    return {**SINGLE, **chosen}


def as_in_papers(config: TrainConfig | None) -> TrainConfig:
    """Return the settings with those of `PAPER` where nothing was chosen: what one default would hide, stays the same.

    Learned rows learn what a bad prompt does not; and deep prompts go where the template lets them, so that two
    placements would differ in more than their place.
    """
    return TrainConfig.read(**{**PAPER, **explicit(config)})


def learn(
    backbone: Backbone, task: Task, config: TrainConfig, folder: Path, start: SoftPrompt | None = None
) -> TrainResult:
    """Train in a folder; a training that was interrupted there goes on, or begins anew where it cannot.

    Raises:
        TrainingError: no step gave a finite loss.
    """
    return resumed_or_anew(
        lambda resume: train(backbone, task, config, run=folder, resume=resume, start=start),
        resume=RunFolder(folder).checkpoint.exists(),
    )

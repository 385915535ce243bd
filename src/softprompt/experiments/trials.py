"""One training among many: plain, without a report, and without the test rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from softprompt.backbones.backbone import Backbone
from softprompt.errors import DataError, TrainingError
from softprompt.progress import say
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.task import Task
from softprompt.training.config import TrainConfig
from softprompt.training.runs import RunFolder
from softprompt.training.train import TrainResult, train

SINGLE: dict[str, Any] = {"race": False}
"""What makes a training one plain run."""
PAPER: dict[str, Any] = {"parameterization": "direct", "learned_rows": False}
"""What papers on prompt tuning train: virtual tokens at the input, and nothing else."""


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
    resume = RunFolder(folder).checkpoint.exists()
    try:
        return train(backbone, task, config, run=folder, resume=resume, start=start)
    except TrainingError as error:
        if not resume:
            raise
        say(f"starting anew: {error}")
        return train(backbone, task, config, run=folder, start=start)

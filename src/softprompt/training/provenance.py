"""What decides a prompt, as plain JSON: for the record of a run, and for the prompt's own provenance."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from softprompt.backbones.backbone import Backbone
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.task import Example, Task
from softprompt.training.config import TrainConfig

TRAIN, ALL_ROWS, ALL_BUT_VALIDATION = "train", "all rows", "all rows but validation"
"""What a prompt was fitted on: more than train where its figures are cross-fitted; `eval` warns of such rows."""
FEW = 500
"""Below this many rows, and without a test split, figures are cross-fitted."""


def few_rows(task: Task) -> bool:
    """Tell whether a task is so small that its prompt learns from all rows and its figures are cross-fitted."""
    return task.shots is None and "test" not in task.given and len(pooled_rows(task)) < FEW


def pooled_rows(task: Task) -> list[Example]:
    """Return the rows that are divided into folds when figures are cross-fitted: all but given validation rows."""
    given = "validation" in task.given
    return [row for split, rows in task.splits.items() if split != "validation" or not given for row in rows]


def fitted_on(task: Task) -> str:
    """Return which rows the prompt of a training learns from, or is chosen by."""
    if not few_rows(task):
        return TRAIN
    return ALL_BUT_VALIDATION if "validation" in task.given else ALL_ROWS


def recipe(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that decide the prompt, as plain JSON; those of the report and the checkpoints do not."""
    others = {"report", "test_rows", "probe_rows", "checkpoint_every", "seed", "init_prompt"}
    return {"method": "prompt tuning", **config.model_dump(exclude=others)}


def settings_of(
    backbone: Backbone, task: Task, config: TrainConfig, start: SoftPrompt | None, learned: str = TRAIN
) -> dict[str, Any]:
    """Return what decides the result, as plain JSON: the run's `run.json` and the prompt's provenance.

    Args:
        backbone: the frozen transformer.
        task: what is learned.
        config: the settings.
        start: the prompt that it starts from, if it does.
        learned: which rows it learns from (`fitted_on`).
    """
    return {
        "task": {
            "name": task.name,
            "data": task.data_hash,
            "rows": {split: len(rows) for split, rows in task.splits.items()},
            "seed": task.seed,
            "shots": task.shots,
        },
        "recipe": recipe(config),
        "template": task.template.to_json(),
        "readout": task.readout.to_json(),
        "seed": config.seed,
        "fitted on": learned,
        "parent": start.digest if start else None,
        "backbone": {
            "name": _plain_name(backbone),
            **backbone.fingerprint.to_json(),
            "dtype": str(backbone.dtype).removeprefix("torch."),
        },
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("softprompt", "torch", "transformers")},
    }


def _plain_name(backbone: Backbone) -> str:
    """The backbone's packaged or hub name; of a path only the last part, which says nothing about the machine."""
    return Path(backbone.name).resolve().name if Path(backbone.name).exists() else backbone.name

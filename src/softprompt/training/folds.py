"""Choosing by folds, where validation rows are too few to choose by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from softprompt.modeling.prompted_model import PromptedModel
from softprompt.progress import say
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.readout import Readout
from softprompt.tasks.splits import folds, source_of_chance
from softprompt.tasks.task import Example
from softprompt.tasks.template import Template
from softprompt.training.config import TrainConfig
from softprompt.training.lesson import Lesson
from softprompt.training.race import Race, halving
from softprompt.training.runs import RunFolder
from softprompt.training.trainer import Trainer

FOLDS = 3


def chosen_by_folds(
    model: PromptedModel,
    rows: Sequence[Example],
    template: Template,
    readout: Readout,
    field: Mapping[str, TrainConfig],
    folder: RunFolder,
    *,
    resume: bool,
    start: SoftPrompt | None = None,
) -> tuple[str, Race]:
    """Let candidates race on three folds each, judged on all rows together; return who won, and the race's table.

    Every row is judged by prompts that have not learned from it. Nothing of the prompts is kept: the winner learns
    from all training rows afterwards.

    Args:
        model: the frozen backbone.
        rows: training and validation rows.
        template: of the task.
        readout: of the task.
        field: the candidates by name, the default first.
        folder: where the race is measured and resumed from.
        resume: go on from its last checkpoint.
        start: with `init=prompt`, the prompt to start from.
    """
    default = next(iter(field.values()))
    parts = folds(rows, FOLDS, source_of_chance(default.seed, "choice"))
    say(f"{len(rows)} rows to choose by: each candidate runs on {FOLDS} folds")
    lessons = [
        Lesson(
            f"{name}, fold {number}",
            config.model_copy(update={"validate_every": config.length, "validation_rows": len(rows)}),
            template,
            readout,
            [row for place, row in enumerate(rows) if place not in set(part)],
            [rows[place] for place in part],
            start,
            name,
        )
        for name, config in field.items()
        for number, part in enumerate(parts, start=1)
    ]
    race = Race(halving(len(field), default.length, len(rows)), ends=True)
    going_on = folder.begin({"candidates": list(field), "folds": FOLDS, "seed": default.seed}, resume=resume)
    Trainer(model, lessons, folder, race).fit(resume=going_on)
    return race.winner or next(iter(field)), Race(table=race.table)

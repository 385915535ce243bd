"""Choosing by folds, where validation rows are too few to choose by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from softprompt.modeling.prompted_model import PromptedModel
from softprompt.progress import say
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.readout import Readout
from softprompt.tasks.splits import folds, source_of_chance
from softprompt.tasks.task import Example
from softprompt.tasks.template import Template
from softprompt.training.batches import sample
from softprompt.training.budget import Spent
from softprompt.training.config import TrainConfig
from softprompt.training.lesson import Lesson
from softprompt.training.race import Race, halving
from softprompt.training.runs import RunFolder
from softprompt.training.trainer import Trainer

FOLDS = 3
ROWS = 2_000
"""Rows of such a race at most, drawn by the seed: more would tell no better what to train on all of them."""


class Choice(NamedTuple):
    """Who won, how all stood at each rung, and what it took."""

    winner: str
    table: list[dict[str, Any]]
    spent: Spent


def chosen_by_folds(
    model: PromptedModel,
    rows: Sequence[Example],
    template: Template,
    readout: Readout,
    field: Mapping[str, TrainConfig],
    folder: RunFolder,
    settings: Mapping[str, Any],
    *,
    resume: bool,
    start: SoftPrompt | None = None,
    by_label: bool = True,
) -> Choice:
    """Let candidates race on three folds each, judged on all rows together.

    Every row is judged by prompts that have not learned from it. Nothing of the prompts is kept: the winner learns
    from all training rows afterwards.

    Args:
        model: the frozen backbone.
        rows: training and validation rows.
        template: of the task.
        readout: of the task.
        field: the candidates by name, the default first.
        folder: where the race is measured and resumed from.
        settings: of the run; with others the race is not resumed.
        resume: go on from its last checkpoint.
        start: with `init=prompt`, the prompt to start from.
        by_label: folds are stratified by label.
    """
    default = next(iter(field.values()))
    rows = sample(rows, ROWS, default.seed)
    parts = folds(rows, FOLDS, source_of_chance(default.seed, "choice"), by_label=by_label)
    say(f"{len(rows)} rows to choose by: each candidate runs on {FOLDS} folds")
    lessons = [
        Lesson(
            f"{name}, fold {number}",
            config.model_copy(update={"validate_every": config.length, "validation_rows": len(rows)}),
            template,
            readout,
            learned,
            judged,
            start,
            name,
        )
        for name, config in field.items()
        for number, (learned, judged) in enumerate(_sides(rows, parts), start=1)
    ]
    race = Race(halving(len(field), default.length, len(rows)), ends=True)
    about = {**settings, "candidates": list(field), "folds": FOLDS}
    fits = Trainer(model, lessons, folder, race).fit(resume=folder.begin(about, resume=resume))
    return Choice(race.winner or next(iter(field)), race.table, Spent.on(fits))


def _sides(rows: Sequence[Example], parts: Sequence[Sequence[int]]) -> list[tuple[list[Example], list[Example]]]:
    """Of each fold the rows to learn from and those to judge on."""
    out = []
    for part in parts:
        held_out = set(part)
        out.append(([row for i, row in enumerate(rows) if i not in held_out], [rows[i] for i in part]))
    return out

"""A task's rows as `softprompt.methods` reads them, with the test rows of a report card."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from softprompt.methods.token_rows import TokenRows
from softprompt.training.config import TrainConfig

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.tasks.task import Example, Task

WATCHED = 500
"""Test rows that are looked at along the way, for the curve alone: nothing is chosen by them."""


class RivalRows(TokenRows):
    """The rows of one task in one backbone's tokens.

    Args:
        backbone: whose tokens.
        task: loaded with the seed, so that its splits are those our prompts see.
        seed: of the order of the batches, and of the test rows where a report card scores a sample.
        batch: rows a step.
    """

    def __init__(self, backbone: Backbone, task: Task, seed: int, batch: int) -> None:
        super().__init__(backbone, task, seed, batch)
        self.labels = task.labels
        self.test = self.read(reported(task, seed))
        self.watched = self.test[:WATCHED]

    def vocabulary(self) -> list[int]:
        """Every token that stands in a row of the task: test rows are scored while tables are cut to them."""
        return sorted({*super().vocabulary(), *(token for row in self.test for token in row.ids)})


def reported(task: Task, seed: int) -> Sequence[Example]:
    """The test rows of a report card with no settings: all, or a sample drawn with the run's seed."""
    rows, most = task.splits["test"], TrainConfig().test_rows
    if len(rows) <= most:
        return rows
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), most))]

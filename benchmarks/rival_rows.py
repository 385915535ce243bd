"""A task's rows as the rivals read them: our template, tokens, splits and order of batches, without soft tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from softprompt.tasks.template import Template
from softprompt.training.batches import BatchOrder
from softprompt.training.config import TrainConfig

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.tasks.task import Example, Task

VALIDATION_ROWS = 1000
WATCHED = 500
"""Test rows that are looked at along the way, for the curve alone: nothing is chosen by them."""


class TokenRow(NamedTuple):
    """One row, `{bos}` and all, and the place of its label."""

    ids: tuple[int, ...]
    gold: int


class RivalRows:
    """The rows of one task in one backbone's tokens.

    Args:
        backbone: whose tokens.
        task: loaded with the seed, so that its splits are those our prompts see.
        seed: of the order of the batches, and of the test rows where a report card scores a sample.
        batch: rows a step.
    """

    def __init__(self, backbone: Backbone, task: Task, seed: int, batch: int) -> None:
        pattern = task.template.pattern.replace("{soft}", "")
        self._template = Template(pattern, task.template.max_tokens).tokenize(backbone.tokenizer, 0)
        self._limit, self.labels = backbone.max_positions, task.labels
        self._gold = {label: i for i, label in enumerate(task.labels)}
        self._train = task.splits["train"]
        self.validation = [self._row(example) for example in task.splits["validation"][:VALIDATION_ROWS]]
        self.test = [self._row(example) for example in reported(task, seed)]
        self.watched = self.test[:WATCHED]
        self.rows = len(self._train)
        self._order = BatchOrder(self.rows, batch, seed, lambda i: self._row(self._train[i]), lambda row: len(row.ids))
        self.batches_per_epoch, self._size = self._order.batches_per_epoch, min(batch, self.rows)

    def batch(self, step: int) -> list[TokenRow]:
        """The rows of a step, the same as ours at this seed and batch size."""
        return [row for _, row in self._order.at(step)]

    def examples(self, steps: int) -> int:
        """How many rows that many steps learn from."""
        epochs, batches = divmod(steps, self.batches_per_epoch)
        return epochs * self.rows + min(batches * self._size, self.rows)

    def vocabulary(self) -> list[int]:
        """Every token that stands in a row of the task, in order."""
        train = (self._row(example) for example in self._train)
        return sorted({token for rows in (train, self.validation, self.test) for row in rows for token in row.ids})

    def _row(self, example: Example) -> TokenRow:
        limit = None if self._limit is None else self._limit - 16  # room for an answer, and for a few virtual tokens
        row = self._template.row(example.fields, limit)
        return TokenRow((*self._template.prefix, *row.ids), self._gold[str(example.label)])


def reported(task: Task, seed: int) -> Sequence[Example]:
    """The test rows of a report card with no settings: all, or a sample drawn with the run's seed."""
    rows, most = task.splits["test"], TrainConfig().test_rows
    if len(rows) <= most:
        return rows
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), most))]


def padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask, [B, T] each; rows begin in the first column, so that no window or position is shifted."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)[:, None]
    return ids, (torch.arange(width, device=device)[None] < lengths).long()

"""A task's rows in one backbone's tokens, without soft ones: what every method learns from, chosen by and asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch

from softprompt.errors import DataError
from softprompt.shapes import Int
from softprompt.tasks.fitted import fitted_to
from softprompt.tasks.task import Example, Task
from softprompt.tasks.template import Template
from softprompt.tasks.template import TokenRow as OwnTokens
from softprompt.training.batches import BatchOrder, sample
from softprompt.training.candidates import even_labels
from softprompt.training.config import TrainConfig

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone

BATCH: int = TrainConfig().batch_size
"""Rows a step, as our prompts have them."""
VALIDATION_ROWS: int = TrainConfig().validation_rows
"""Validation rows that a method is chosen by, at most: as many as our prompts look at."""
ROOM = 16
"""Positions that stay free behind a row, for an answer; of longer answers, as many as they take."""
UNKNOWN = -1
"""The gold of a row whose label is not known."""


class TokenRow(NamedTuple):
    """One row.

    Attributes:
        ids: its tokens, the template's words in front of the first field and all.
        gold: the place of its label among the task's; `UNKNOWN` where it has none.
        own: the same from the first field on, as `modeling` takes it.
    """

    ids: tuple[int, ...]
    gold: int
    own: OwnTokens


class TokenRows:
    """The rows of one task in one backbone's tokens: our template, splits and order of batches.

    Args:
        backbone: whose tokens.
        task: classification, with train and validation rows.
        seed: of the order of the batches.
        batch: rows a step.
        front: positions in front of a row that virtual tokens take.

    Attributes:
        task: as its rows are written for this kind of backbone, without soft slots.
        batch_size: rows a step.
        pass_cost: of the backbone.
        read_by: what tells the backbone from another, before anything is trained, as plain JSON.

    Raises:
        DataError: there is nothing to learn from, or nothing to choose by.
    """

    def __init__(self, backbone: Backbone, task: Task, seed: int, batch: int = BATCH, *, front: int = 0) -> None:
        self.task, self.batch_size, self._seed = without_soft(backbone, task), batch, seed
        self.pass_cost = backbone.pass_cost
        self.read_by = {"fingerprint": backbone.fingerprint.to_json(), "dtype": str(backbone.dtype)}
        self._template = self.task.template.tokenize(backbone.tokenizer, 0)
        answers = [backbone.tokenizer.encode(word, add_special_tokens=False) for word in self.task.readout.words]
        taken = front + max(ROOM, *map(len, answers))
        self._limit = None if backbone.max_positions is None else backbone.max_positions - taken
        self._gold = {label: place for place, label in enumerate(task.labels)}
        self._train = task.splits.get("train", ())
        for split in ("train", "validation"):
            if not task.splits.get(split):
                raise DataError(
                    f"the task `{task.name}` has no {split} rows; a method learns from train and stops by validation"
                )
        self._order = BatchOrder(len(self._train), batch, seed)

    @property
    def count(self) -> int:
        """How many training rows there are."""
        return len(self._train)

    @property
    def even_labels(self) -> float:
        """How many labels there are, were all as rare as the rarest."""
        return even_labels(self.task.labels, self._train)

    @property
    def batches_per_epoch(self) -> int:
        """How many steps it takes to see every training row once."""
        return self._order.batches_per_epoch

    @cached_property
    def train(self) -> list[TokenRow]:
        """The training rows, in the task's order."""
        return self.read(self._train)

    @cached_property
    def validation(self) -> list[TokenRow]:
        """The validation rows that are looked at, in the task's order."""
        return self.read(sample(self.task.splits["validation"], VALIDATION_ROWS, self._seed))

    def batch(self, step: int) -> list[TokenRow]:
        """Return the rows of a step (counted from 0): those of our prompts at the same seed and batch size."""
        return [self._row(self._train[place]) for place in self._order.at(step)]

    def examples(self, steps: int) -> int:
        """Return how many rows that many steps learn from, each time counted."""
        return self._order.rows(steps)

    def vocabulary(self) -> list[int]:
        """Return every token that stands in a training or a validation row, in order."""
        return sorted({token for row in (*self.train, *self.validation) for token in row.ids})

    def read(self, examples: Sequence[Example]) -> list[TokenRow]:
        """Return rows of the task in tokens, labelled or not.

        Raises:
            TemplateError: a row lacks a field of the template.
        """
        return [self._row(example) for example in examples]

    def _row(self, example: Example) -> TokenRow:
        own = self._template.row(example.fields, self._limit)
        return TokenRow((*self._template.prefix, *own.ids), self._gold.get(str(example.label), UNKNOWN), own)


def without_soft(backbone: Backbone, task: Task) -> Task:
    """Return a task as its rows are written for a kind of backbone, its soft slots left out."""
    fitted = fitted_to(task, backbone.kind, masked="mask-readout" in backbone.capabilities)
    template = Template(fitted.template.pattern.replace("{soft}", ""), fitted.template.max_tokens)
    return replace(fitted, template=template)


def padded(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Int[torch.Tensor, "B T"], Int[torch.Tensor, "B T"]]:
    """Return token ids and mask; rows begin in the first column, so that no window or position is shifted.

    >>> ids, mask = padded([[5, 6], [7]], 0, torch.device("cpu"))
    >>> ids.tolist(), mask.tolist()
    ([[5, 6], [7, 0]], [[1, 1], [1, 0]])

    Args:
        rows: token ids.
        pad: the id that fills up.
        device: where both are made.
    """
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)[:, None]
    return ids, (torch.arange(width, device=device)[None] < lengths).long()

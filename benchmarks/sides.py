"""One training step as each side takes it: ours and PEFT's (the package's own), and the bare backbone's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from softprompt.backbones.compiling import compiled
from softprompt.methods.documented import IGNORED, Ours, Peft, Rows

if TYPE_CHECKING:
    from subjects import Setting

    from softprompt.backbones.backbone import Backbone
    from softprompt.tasks.task import Task

__all__ = ["Bare", "Ours", "Peft", "as_trained"]


def as_trained(setting: Setting, backbone: Backbone, warm_up: Callable[[], object]) -> AbstractContextManager[object]:
    """Steps in the block run with compiled layers, as in any training of some length; tiny forms run without."""
    return nullcontext() if setting.quick else compiled(backbone, warm_up)


class Bare:
    """The step time at P = 0: whole rows behind their own BOS, forward, and backward to the embedded tokens.

    There is nothing to learn, so no optimizer runs; the loss is ours, over the label words' first tokens.
    """

    def __init__(self, backbone: Backbone, task: Task, ours: Ours) -> None:
        self._backbone, self._rows = backbone, Rows(backbone, task, ours.batch)
        self._first = torch.tensor(sorted({ids[0] for ids in self._rows.answers.values()}))

    def tokens(self, step: int) -> int:
        """Unpadded tokens of a step's rows, BOS and all."""
        inputs = self._rows.at(step)
        return int((inputs.mask.bool() & (inputs.labels == IGNORED)).sum())

    def step(self, step: int) -> None:
        inputs = self._rows.at(step)
        mask = inputs.mask * (inputs.labels == IGNORED)  # the answer itself is not read
        width = int(mask.sum(1).max())
        ids, mask = inputs.ids[:, :width], mask[:, :width]
        embedded = self._backbone.embed(ids).requires_grad_()
        hidden, _ = self._backbone.run(embedded, mask=mask, positions=(mask.cumsum(1) - 1).clamp(0))
        last = mask.sum(1) - 1
        logits = self._backbone.logits(hidden[torch.arange(len(ids)), last], self._first)
        gold = (self._first[None] == inputs.ids[torch.arange(len(ids)), last + 1][:, None]).long().argmax(1)
        cross_entropy(logits, gold).backward()

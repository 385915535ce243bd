"""Where the real tokens of a batch stand, so that it can run without its padding."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from softprompt.shapes import Int


class Packing(NamedTuple):
    """Where the real tokens of a batch of B rows of T columns stand, N of them.

    Attributes:
        slots: the place of each real token in the batch, row after row, [N].
        tokens: of each slot of the batch, the real token that stands there, [B, T]; of padding, a token of its row, so
            that a row of NaN stays alone with them.
    """

    slots: Int[Tensor, " N"]
    tokens: Int[Tensor, "B T"]

    @classmethod
    def of(cls, real: Int[Tensor, "B T"]) -> Packing:
        """Return the packing of rows with real tokens where `real` is 1.

        >>> packing = Packing.of(torch.tensor([[1, 1, 0], [1, 0, 0]]))
        >>> packing.slots.tolist(), packing.tokens.tolist()
        ([0, 1, 3], [[0, 1, 1], [2, 2, 2]])
        """
        behind = real.flatten().cumsum(0).view(real.shape)  # tokens up to each slot
        first = (behind[:, -1] - real.sum(1)).clamp(max=int(behind[-1, -1]) - 1)  # of each row; it may have none
        return cls(real.flatten().nonzero()[:, 0], torch.maximum(behind - 1, first[:, None]))

    def pack(self, batch: Tensor) -> Tensor:
        """Return the real tokens of [B, T, ...] as one row, [1, N, ...]."""
        return batch.flatten(0, 1)[self.slots][None]

    def rows(self, packed: Tensor) -> Tensor:
        """Lay one row of all tokens, [1, N, ...], out in rows, [B, T, ...]."""
        return packed[0][self.tokens]

    def heads(self, packed: Tensor) -> Tensor:
        """Lay what the heads made of all tokens, [1, H, N, K], out in rows, [B, H, T, K]."""
        return self.rows(packed.transpose(1, 2)).transpose(1, 2)

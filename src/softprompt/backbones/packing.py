"""Where the real tokens of a batch stand, so that it can run without its padding."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
        out: Tensor = _Pack.apply(batch, self.slots)  # type: ignore[no-untyped-call]
        return out

    def rows(self, packed: Tensor) -> Tensor:
        """Lay one row of all tokens, [1, N, ...], out in rows, [B, T, ...]."""
        out: Tensor = _LayOut.apply(packed, self.tokens, self.slots)  # type: ignore[no-untyped-call]
        return out

    def heads(self, packed: Tensor) -> Tensor:
        """Lay what the heads made of all tokens, [1, H, N, K], out in rows, [B, H, T, K]."""
        return self.rows(packed.transpose(1, 2)).transpose(1, 2)


class _Pack(torch.autograd.Function):
    """Leave the padding out; backward it is zero."""

    @staticmethod
    def forward(context: Any, batch: Tensor, slots: Tensor) -> Tensor:
        context.save_for_backward(slots)
        context.shape = batch.shape
        return batch.flatten(0, 1)[slots[None]]  # no view, which would be a case of its own for a compiler

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slots,) = context.saved_tensors
        out = gradient.new_zeros(context.shape)
        out.flatten(0, 1)[slots] = gradient[0]
        return out, None


class _LayOut(torch.autograd.Function):
    """Put something in the padding's place; nothing depends on it, so backward only real tokens count.

    Without this torch would sum over all places that a token was put at, which takes long.
    """

    @staticmethod
    def forward(context: Any, packed: Tensor, tokens: Tensor, slots: Tensor) -> Tensor:
        context.save_for_backward(slots)
        return packed[0][tokens]

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slots,) = context.saved_tensors
        return gradient.flatten(0, 1)[slots][None], None, None

"""Caches' layers: one that may run twice, as activation checkpointing needs it, and one that grows without copying.

This module alone of the room imports transformers as it is loaded; it is loaded when a cache is first built.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, EncoderDecoderCache

from softprompt.backbones.packing import Packing


class ReplayLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not followed by the type checker
    """One layer's keys and values: what it starts at stays as it is, so that a second run finds what the first did.

    transformers' own layer writes down what it is shown each time it is shown something; run again in the backward
    pass, it would see its tokens twice. This one writes at most once, and not at all where nobody wants to go on.

    Args:
        start: keys and values of the S slots before, [B, H, S, K]; None: there are none.
        keep: whether the keys and values of all S+T slots are wanted afterwards.
        packing: where the tokens of all rows stand that are shown as one row; None: they are shown in rows.
    """

    def __init__(
        self, start: tuple[Tensor, Tensor] | None = None, *, keep: bool = True, packing: Packing | None = None
    ) -> None:
        super().__init__()
        self._start, self._keep, self._packing, self._written = start, keep, packing, False
        if start is not None:
            self.lazy_initialization(*start)
            self.keys, self.values = start

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Return the keys and values of all S+T slots; the first time, keep them if they are wanted."""
        keys, values = key_states, value_states
        if self._packing is not None:
            keys, values = self._packing.heads(keys), self._packing.heads(values)
        if self._start is not None:
            keys, values = torch.cat([self._start[0], keys], dim=-2), torch.cat([self._start[1], values], dim=-2)
        if self._keep and not self._written:
            if not self.is_initialized:
                self.lazy_initialization(keys, values)
            self.keys, self.values, self._written = keys, values, True
        return keys, values

    def laid_out(self) -> ReplayLayer | None:
        """Return one like it, every row's start in memory of its own; None where it will keep."""
        if self._keep:
            return None
        start = None if self._start is None else (self._start[0].contiguous(), self._start[1].contiguous())
        return ReplayLayer(start, keep=False, packing=self._packing)

    def get_seq_length(self) -> int:
        """Return S, during the pass and after it: T5's layers count their positions from it."""
        return 0 if self._start is None else self._start[0].shape[-2]


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values with room behind them; a second run of the layer writes the same again.

    Args:
        room: keys and values, [B, H, C, K].
        start: the first column that rows attend to.
        end: the column that the pass writes at.
    """

    def __init__(self, room: tuple[Tensor, Tensor], start: int, end: int) -> None:
        super().__init__()
        self._room, self._start, self._end = room, start, end
        self.lazy_initialization(*room)
        self.keys, self.values = (each[:, :, start:end] for each in room)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write behind the S slots and return the keys and values of all S+T, which are views."""
        stop = self._end + key_states.shape[-2]
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, self._end : stop] = new
        self.keys, self.values = (room[:, :, self._start : stop] for room in self._room)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Return S, during the pass and after it."""
        return self._end - self._start


class ReplayPair(EncoderDecoderCache):  # type: ignore[misc]
    """The caches of an encoder-decoder's decoder for one pass: what they hold of the encoder's states is known at once.

    transformers notes in a layer's first run that it has seen the states, and would then not look at them again.

    Args:
        own: what the decoder attends to in itself.
        cross: what it has made of the encoder's states; empty: nothing yet.
    """

    def __init__(self, own: DynamicCache, cross: DynamicCache) -> None:
        super().__init__(own, cross)
        self.is_updated: dict[int, bool] = _Fixed(self.is_updated)


class _Fixed(dict[int, bool]):
    """What is known at the beginning of a pass."""

    def __setitem__(self, key: int, value: bool) -> None:
        return

"""A cache whose layers may run twice: what activation checkpointing needs of the past.

This module alone of the room imports transformers as it is loaded; it is loaded when a cache is first built.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer


class ReplayLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not followed by the type checker
    """One layer's keys and values: what it starts at stays as it is, so that a second run finds what the first did.

    transformers' own layer writes down what it is shown each time it is shown something; run again in the backward
    pass, it would see its tokens twice. This one writes at most once, and not at all where nobody wants to go on.

    Args:
        start: keys and values of the S slots before, [B, H, S, K]; None: there are none.
        keep: whether the keys and values of all S+T slots are wanted afterwards.
    """

    def __init__(self, start: tuple[Tensor, Tensor] | None = None, *, keep: bool = True) -> None:
        super().__init__()
        self._start, self._keep, self._written = start, keep, False
        if start is not None:
            self.lazy_initialization(*start)
            self.keys, self.values = start

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Return the keys and values of all S+T slots; the first time, keep them if they are wanted."""
        keys, values = key_states, value_states
        if self._start is not None:
            keys, values = torch.cat([self._start[0], keys], dim=-2), torch.cat([self._start[1], values], dim=-2)
        if self._keep and not self._written:
            if not self.is_initialized:
                self.lazy_initialization(keys, values)
            self.keys, self.values, self._written = keys, values, True
        return keys, values

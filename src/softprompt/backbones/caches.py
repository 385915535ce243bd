"""Keys and values: ours are plain tensors, transformers wants cache objects."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from softprompt.backbones.packing import Packing

KeyValues = list[tuple[Tensor, Tensor]]
"""One (keys, values) per layer, each [B, H, S, K]; heads and head size may differ by layer."""


class Growing(NamedTuple):
    """Keys and values with room behind them: what a pass adds is written there, and nothing else is copied.

    Attributes:
        room: (keys, values) of every layer, [B, H, C, K]; the last of C columns that the pass needs is there.
        start: the first column that rows attend to.
        end: the column behind the last of them, where the pass writes.
    """

    room: KeyValues
    start: int
    end: int


class DecoderPast(NamedTuple):
    """What the decoder of an encoder-decoder goes on from.

    Attributes:
        own: keys and values of the S slots that it attends to in itself: a deep prompt, or what it has decoded.
        cross: keys and values of the encoder's states, [B, H, T, K] a layer; None: made from the states.
    """

    own: KeyValues | Growing | None = None
    cross: KeyValues | None = None


def cache_of(
    past: KeyValues | Growing | None, dtype: torch.dtype, *, keep: bool = True, packing: Packing | None = None
) -> Any:
    """Build a `DynamicCache` that starts at `past`, for one pass.

    It is made without the model's configuration: with it, layers with a sliding window keep W-1 columns only, and a
    prefix padded on the left is then silently wrong. The tensors are put in as they are, which saves the copy that
    `update` would make of a view expanded over the batch.

    Args:
        past: keys and values to start at; None: nothing. Those that grow are in the cache's dtype.
        dtype: of the cache.
        keep: whether `kept_in` will be asked for what the pass adds.
        packing: where the tokens of all rows stand that the pass runs as one row.
    """
    from transformers.cache_utils import DynamicCache

    from softprompt.backbones.replay import GrowingLayer, ReplayLayer

    cache = DynamicCache()
    if isinstance(past, Growing):
        cache.layers.extend(GrowingLayer(room, past.start, past.end) for room in past.room)
        return cache
    layer = partial(ReplayLayer, keep=keep, packing=packing)
    cache.layer_class_to_replicate = layer
    cache.layers.extend(layer((k.to(dtype), v.to(dtype))) for k, v in past or ())
    return cache


def kept_in(cache: Any) -> KeyValues:
    """Return the keys and values that a cache holds after a run."""
    return [(layer.keys, layer.values) for layer in cache.layers]

"""Passes through an encoder, in which every token sees the whole row."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from softprompt.backbones.caches import KeyValues, cache_of, kept_in
from softprompt.backbones.families import Limits
from softprompt.registry import unknown_name
from softprompt.shapes import Float, Int

Pooling = Literal["mean", "first"]


def run_encoder(
    model: Any,
    limits: Limits,
    embeddings: Float[Tensor, "B T D"],
    mask: Int[Tensor, "B _"],
    positions: Int[Tensor, "B T"],
    past: KeyValues | None,
) -> Float[Tensor, "B T Dout"]:
    """Run an encoder over rows of embeddings, behind keys and values from outside where there are some.

    Positions are always passed: RoBERTa counts those of `inputs_embeds` from the column, padding included. Token
    types are left to the model, which takes the first for every slot.
    """
    cache = cache_of(past, embeddings.dtype, keep=False) if past else None
    return _hidden(model, limits, embeddings, mask, positions, cache)


def key_values_of(
    model: Any,
    limits: Limits,
    embeddings: Float[Tensor, "B T D"],
    mask: Int[Tensor, "B T"],
    positions: Int[Tensor, "B T"],
) -> KeyValues:
    """Return the keys and values that rows of embeddings make in every layer.

    transformers returns an encoder's cache to nobody, but fills the one that it is given.
    """
    cache = cache_of(None, embeddings.dtype)
    _hidden(model, limits, embeddings, mask, positions, cache)
    return kept_in(cache)


def _hidden(model: Any, limits: Limits, embeddings: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
    output = model.base_model(
        inputs_embeds=embeddings,
        attention_mask=mask,
        position_ids=positions + limits.first_position,
        **({} if cache is None else {"past_key_values": cache}),
    )
    hidden: Tensor = output.last_hidden_state
    return hidden


def pool(hidden: Float[Tensor, "B T D"], mask: Int[Tensor, "B T"], how: Pooling) -> Float[Tensor, "B D"]:
    """Return one vector a row, in fp32: the mean of its real slots, or its first one.

    Args:
        hidden: the hidden states of right-padded rows.
        mask: 1 where a slot is real.
        how: `mean` or `first`.

    Raises:
        UnknownNameError: another way.
    """
    if how == "first":
        return hidden[:, 0].float()
    if how != "mean":
        raise unknown_name("pooling", how, get_args(Pooling))
    weights = mask[..., None].to(torch.float32)  # [B, T, 1]
    return (hidden.float() * weights).sum(1) / weights.sum(1)

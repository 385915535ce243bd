"""Attention for short rows on a CPU, through transformers' own registered attention interface.

Prompt tuning runs many short rows over one prefix. There, the fused kernel's blocks are mostly empty, and repeating
keys and values for every query head of a group copies the prefix several times. `grouped` multiplies each group's
queries with its keys and values as they are, which is faster than both of transformers' ways; a batch whose scores
would take much memory goes to the fused kernel, and so does a token behind columns that have room behind them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softprompt.backbones.families import Family
from softprompt.backbones.packing import Packing
from softprompt.errors import ConfigError

GROUPED = "grouped"
# Scores of one layer, [B, heads, T, S+T]: 4 million and their softmax take 16 MB in bf16, in every layer in training.
_MOST_SCORES = 4_000_000


def choose_attention(family: Family, asked: str | None, device_type: str) -> str:
    """Return the attention implementation asked for, else the one that is fastest for the family and the device.

    Args:
        family: from `families`.
        asked: `grouped`, `sdpa` or `eager`, or None.
        device_type: `cpu` or `cuda`.

    Raises:
        ConfigError: the family does not compute the same with it.
    """
    if asked is not None and asked not in family.attentions:
        known = ", ".join(f"`{kind}`" for kind in family.attentions)
        raise ConfigError(f"attention `{asked}` was asked for, but {family.title} is served with {known} only")
    preferred = family.attentions if device_type == "cpu" else [kind for kind in family.attentions if kind != GROUPED]
    chosen = asked or preferred[0]
    if chosen == GROUPED:
        _register()
    return chosen


def _register() -> None:
    """Make `grouped` known to transformers; doing it again changes nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(GROUPED, grouped_attention)
    AttentionMaskInterface.register(GROUPED, eager_mask)


def grouped_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packing: Packing | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attend with the queries of each group side by side: softmax(scaling · q kᵀ) v.

    Args:
        module: the attention layer.
        query: [B, heads, T, K].
        key: [B, H, S+T, K]; `heads` is a multiple of H.
        value: [B, H, S+T, K].
        attention_mask: 0 where a query sees a column, else the least number, [B, 1, T, S+T]; None: plainly causal.
        scaling: of the scores; None: 1/√K.
        dropout: zero here: backbones never train.
        packing: where the queries of all rows stand that come as one row, [1, heads, N, K]; keys and values come laid
            out.
        settings: what else the layer tells its attention, the window above all, which the mask already holds.

    Returns:
        The attended values [B, T, heads, K], or [1, N, heads, K] where they are packed, and no weights.
    """
    if packing is not None:
        rows = packing.heads(query)
        attended, _ = grouped_attention(module, rows, key, value, attention_mask, scaling, dropout, **settings)
        return packing.pack(attended), None
    B, heads, T, K = query.shape
    H, columns = key.shape[1], key.shape[2]
    roomy = key.stride(1) > columns * K  # a cache that grows in place, which a plain product would copy in bf16
    if attention_mask is None or roomy or not few_scores(query, key):
        return _fused(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **settings)
    queries = (query * (K**-0.5 if scaling is None else scaling)).reshape(B, H, -1, K)
    scores = (queries @ key.transpose(-1, -2)).view(B, H, heads // H, T, columns)
    weights = torch.softmax(scores + attention_mask[:, :, None], dim=-1)  # computed in fp32, rounded once
    attended = weights.view(B, H, -1, columns) @ value
    return attended.view(B, heads, T, K).transpose(1, 2).contiguous(), None


def few_scores(query: Tensor, key: Tensor) -> bool:
    """Say whether a batch's scores take little enough memory to be written down."""
    B, heads, T, _ = query.shape
    return bool(B * heads * T * key.shape[2] <= _MOST_SCORES)


def _fused(*arguments: Any, **settings: Any) -> tuple[Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    attended: Tensor = sdpa_attention_forward(*arguments, **settings)[0]
    return attended, None

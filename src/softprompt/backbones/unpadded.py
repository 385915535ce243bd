"""Rows of different lengths without their padding: everything but attention sees the real tokens only.

All of a decoder's layers but attention look at one token at a time. So a batch whose rows differ much in length runs as
one row of all their tokens, and is laid out in rows, padding and all, for attention alone. Krell et al. 2021 (arXiv
2107.02027) pack rows so for training. Here steps learn from rows as they come, and short rows of many lengths come
together from many askers.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from softprompt.backbones.caches import KeyValues, cache_of, kept_in
from softprompt.backbones.packing import Packing
from softprompt.shapes import Float, Int

_WORTH = 0.15
"""Share of a batch that is padding from which on going without it gains more than laying out for attention costs."""

_SLIDING = "create_sliding_window_causal_mask"
"""What a model of transformers that can have a window makes its mask by."""


def is_worth_packing(mask: Int[Tensor, "B _"], tokens: int) -> bool:
    """Say whether a pass is to go without the padding of its last `tokens` columns.

    Where nothing is learned, if there is so much of it that it is faster. Else always: every step of a training is then
    the same work, which is compiled once.
    """
    if torch.is_grad_enabled():
        return True
    real = mask[:, mask.shape[1] - tokens :]
    return bool(real.numel() - int(real.sum()) > _WORTH * real.numel())


def run_packed(
    model: Any,
    embeddings: Float[Tensor, "B T D"],
    mask: Int[Tensor, "B _"],
    positions: Int[Tensor, "B T"],
    past: KeyValues | None,
    *,
    keep: bool,
) -> tuple[Float[Tensor, "B T Dout"], KeyValues | None]:
    """Run a decoder whose attention is `grouped` as `Backbone.run` does, without the padding of its rows.

    What stands where a row is padded means nothing, as ever.
    """
    packing = Packing.of(mask[:, mask.shape[1] - embeddings.shape[1] :])
    cache = cache_of(past, embeddings.dtype, keep=keep, packing=packing)
    masks = _masks(model, embeddings, mask, cache, positions)
    output = model.base_model(
        inputs_embeds=packing.pack(embeddings),
        attention_mask=masks,
        position_ids=packing.pack(positions),
        past_key_values=cache,
        use_cache=False,
        packing=packing,
    )
    return packing.rows(output.last_hidden_state), kept_in(cache) if keep else None


def _masks(
    model: Any, embeddings: Tensor, mask: Tensor, cache: Any, positions: Tensor
) -> Tensor | dict[str, Tensor | None] | None:
    """Return what the rows' queries see, made as the model itself makes it: one mask, or one a kind of layer.

    A model that has layers of several kinds takes several masks; any takes one that is ready. A configuration may speak
    of a window that its model knows nothing of.
    """
    from transformers.masking_utils import (
        create_causal_mask,
        create_masks_for_generate,
        create_sliding_window_causal_mask,
    )

    config, knows_windows = model.config, hasattr(sys.modules[type(model).__module__], _SLIDING)
    given = {
        "config": config, "inputs_embeds": embeddings, "attention_mask": mask, "past_key_values": cache,
        "position_ids": positions,
    }  # fmt: skip
    kinds = set(getattr(config, "layer_types", None) or ())
    if len(kinds) > 1:
        several: dict[str, Tensor | None] = create_masks_for_generate(**given)
        return several
    slides = kinds == {"sliding_attention"} or (not kinds and getattr(config, "sliding_window", None) is not None)
    make = create_sliding_window_causal_mask if slides and knows_windows else create_causal_mask
    one: Tensor | None = make(**given)
    return one

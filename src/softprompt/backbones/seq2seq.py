"""Passes through an encoder-decoder: rows are encoded once, and answers decoded against their states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softprompt.backbones.caches import DecoderPast, Growing, cache_of, kept_in
from softprompt.shapes import Float, Int


def encode_rows(model: Any, embeddings: Float[Tensor, "B T D"], mask: Int[Tensor, "B T"]) -> Float[Tensor, "B T Dout"]:
    """Return the encoder's states of rows that begin in the first column and are padded on the right."""
    states: Tensor = model.get_encoder()(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
    return states


def decode_tokens(
    model: Any,
    ids: Int[Tensor, "B U"],
    states: Float[Tensor, "B T D"],
    mask: Int[Tensor, "B T"],
    past: DecoderPast,
    past_mask: Int[Tensor, "B S"] | None,
    *,
    keep: bool,
) -> tuple[Float[Tensor, "B U Dout"], DecoderPast | None]:
    """Run the decoder over target tokens; what it is told to keep holds the cross-attention's keys and values too."""
    decoder = model.get_decoder()
    past_mask = _past_mask(past, past_mask, ids)
    cache: Any = _cache(past, states.dtype) if keep or past.own or past.cross else None
    output = decoder(
        inputs_embeds=_embedded(decoder, ids, past_mask),
        attention_mask=torch.cat([past_mask, torch.ones_like(ids)], dim=1),
        encoder_hidden_states=states,
        encoder_attention_mask=mask,
        past_key_values=cache,
        use_cache=False,  # it is ours: nobody is to make another
    )
    kept = DecoderPast(kept_in(cache.self_attention_cache), kept_in(cache.cross_attention_cache)) if keep else None
    return output.last_hidden_state, kept


def _past_mask(past: DecoderPast, mask: Tensor | None, ids: Tensor) -> Tensor:
    """The mask over the past's own slots, all of them real unless told otherwise: [B, S]."""
    if mask is not None:
        return mask.to(ids.dtype)
    assert not isinstance(past.own, Growing), "columns with room are told apart by their mask"
    return ids.new_ones(len(ids), past.own[0][0].shape[2] if past.own else 0)


def _cache(past: DecoderPast, dtype: torch.dtype) -> Any:
    from softprompt.backbones.replay import ReplayPair

    return ReplayPair(cache_of(past.own, dtype), cache_of(past.cross, dtype))


def _embedded(decoder: Any, ids: Tensor, past_mask: Tensor) -> Tensor:
    """Embed target tokens; where a row's past is padded, BART's positions, counted by column, are put right.

    Its decoder adds the table's row of the *column* and cannot be told otherwise, so the difference to the row of
    the position is added before.
    """
    embedded: Tensor = decoder.embed_tokens(ids)
    table: Any = getattr(decoder, "embed_positions", None)
    padding = (past_mask == 0).sum(1, keepdim=True)  # [B, 1]
    if table is None or not bool(padding.any()):
        return embedded
    columns = (past_mask.shape[1] + torch.arange(ids.shape[1], device=ids.device)).expand_as(ids)
    shift: Tensor = (table(ids, position_ids=columns - padding) - table(ids, position_ids=columns))[0]
    return embedded + shift

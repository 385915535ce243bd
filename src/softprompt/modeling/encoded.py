"""Passes of an encoder-decoder: rows are encoded once, and answers are decoded against their states."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from softprompt.backbones.backbone import Backbone, DecoderPast, Growing, KeyValues
from softprompt.shapes import Float, Int


class Source(NamedTuple):
    """What the decoder reads a row from.

    Attributes:
        states: of the encoder.
        mask: 1 where a state is real.
        cross: the keys and values that the decoder makes of them, once it has; [B, H, T, K] a layer.
    """

    states: Float[Tensor, "B T D"]
    mask: Int[Tensor, "B T"]
    cross: KeyValues | None = None

    def rows(self, index: Int[Tensor, " M"]) -> Source:
        """Return those of some rows."""
        cross = None if self.cross is None else [(k[index], v[index]) for k, v in self.cross]
        return Source(self.states[index], self.mask[index], cross)

    def repeat(self, count: int) -> Source:
        """Return all rows `count` times, one copy of all behind the other."""
        cross = None if self.cross is None else [(_repeated(k, count), _repeated(v, count)) for k, v in self.cross]
        return Source(_repeated(self.states, count), self.mask.repeat(count, 1), cross)


def decode(
    backbone: Backbone,
    ids: Int[Tensor, "B U"],
    source: Source,
    past: KeyValues | Growing | None,
    mask: Int[Tensor, "B S"],
    *,
    keep: bool,
) -> tuple[Float[Tensor, "B U D"], KeyValues | None, Source]:
    """Run the decoder over an answer's tokens, behind the S slots of `past` of which `mask` are real.

    Returns:
        The decoder's states; its own keys and values of all S+U slots if `keep`; and the source, which then knows its
        keys and values.
    """
    before = DecoderPast(past, source.cross)
    hidden, kept = backbone.decode(ids, source.states, mask=source.mask, past=before, past_mask=mask, keep=keep)
    if kept is None:
        return hidden, None, source
    assert not isinstance(kept.own, Growing), "what is kept are tensors of their own"
    return hidden, kept.own, source._replace(cross=kept.cross)


def _repeated(tensor: Tensor, count: int) -> Tensor:
    return tensor.repeat(count, *[1] * (tensor.dim() - 1))

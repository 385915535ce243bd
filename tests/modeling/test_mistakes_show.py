"""The contract suite can fail: layouts that are wrong without a word are caught by it."""

import pytest
import torch

from softprompt.modeling import forward
from softprompt.modeling.layout import Layout, contiguous
from softprompt.modeling.slots import Slots
from softprompt.testing import conformance, row_conformance
from softprompt.testing.tiny import tiny_backbone


def holed(prefix, row, tokens):
    """`[prefix][pad][row]`: rows at the right of their columns, as peers lay them out."""
    good = contiguous(prefix, row, tokens)
    slots = int(prefix.max())
    columns = torch.arange(tokens)
    late = columns >= tokens - row[:, None]
    mask = torch.cat([good.mask[:, :slots], late.long()], dim=1)
    return Layout(mask, (mask.cumsum(1) - 1).clamp(min=0)[:, slots:])


def test_forgotten_positions_are_caught(monkeypatch):
    def from_zero(prefix, row, tokens):
        good = contiguous(prefix, row, tokens)
        return Layout(good.mask, torch.arange(tokens).expand_as(good.positions))

    monkeypatch.setattr(forward, "contiguous", from_zero)
    with pytest.raises(AssertionError, match="differs by"):
        conformance.check_against_plain_forward(tiny_backbone("llama"))


def test_a_cache_that_is_not_compacted_is_caught(monkeypatch):
    monkeypatch.setattr(forward, "compact", lambda past, mask: (past, mask))
    with pytest.raises(AssertionError, match="differs by"):
        conformance.check_alone_and_batched(tiny_backbone("mistral"))


def test_a_hole_before_the_row_is_caught(monkeypatch):
    run_rows = forward.run_rows

    def right_aligned(backbone, batch, *, keep=False):
        done = run_rows(backbone, batch, keep=keep)
        width = done.hidden.shape[1]
        for i, row in enumerate(batch.ids):
            done.hidden[i] = done.hidden[i].roll(len(row) - width, 0)
        return done

    embed = forward._embed

    def late(backbone, ids, bounds, owner):
        lengths = (ids != backbone.pad).sum(1)
        rolled = torch.stack([row.roll(ids.shape[1] - int(n)) for row, n in zip(ids, lengths, strict=True)])
        return embed(backbone, rolled, bounds, owner)

    monkeypatch.setattr(forward, "contiguous", holed)
    monkeypatch.setattr(forward, "_embed", late)
    monkeypatch.setattr("softprompt.modeling.prompted_model.run_rows", right_aligned)
    with pytest.raises(AssertionError, match="differs by"):
        conformance.check_mixed_prompts(tiny_backbone("mistral"))


@pytest.mark.parametrize("family", ["mistral", "t5"])
def test_padding_that_a_flight_takes_for_real_is_caught(monkeypatch, family):
    mask = Slots.mask
    monkeypatch.setattr(Slots, "mask", lambda self, device: torch.ones_like(mask(self, device)))
    check = (conformance if family == "mistral" else row_conformance).check_flight
    with pytest.raises(AssertionError, match=r"tokens of|likeliest of"):
        check(tiny_backbone(family))

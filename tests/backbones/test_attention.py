"""The attention of short rows: the same result as transformers' own, in every family that uses it."""

import pytest
import torch

from softprompt.backbones import attention
from softprompt.backbones.families import FAMILIES
from softprompt.testing.tiny import TINY_FAMILIES, WINDOW, tiny_backbone

GROUPED = [name for name in TINY_FAMILIES if tiny_backbone(name).attention == "grouped"]


def run(backbone, rows, mask):
    hidden, past = backbone.run(rows[:, :11], mask=mask[:, :11], positions=positions(mask[:, :11]), keep=True)
    rest, _ = backbone.run(rows[:, 11:], mask=mask, positions=positions(mask)[:, 11:], past=past)
    return torch.cat([hidden, rest], 1) * mask[..., None]


def positions(mask):
    return (mask.cumsum(1) - 1).clamp(0)


@pytest.mark.parametrize("family", GROUPED)
@pytest.mark.parametrize("other", ["sdpa", "eager"])
@pytest.mark.parametrize("most", [10**9, 0])
def test_every_implementation_gives_the_same_with_gradients(family, other, most, monkeypatch):
    monkeypatch.setattr(attention, "_MOST_SCORES", most)
    grouped = tiny_backbone(family)
    mask = torch.ones(3, 3 * WINDOW, dtype=torch.long)
    mask[1, :5], mask[2, -6:] = 0, 0
    generator = torch.Generator().manual_seed(0)
    rows = (
        grouped.embedding_rms * torch.randn(3, 3 * WINDOW, grouped.embedding_size, generator=generator)
    ).requires_grad_()
    found, wanted = (run(backbone, rows, mask) for backbone in (grouped, tiny_backbone(family, attention=other)))
    assert float((found - wanted).detach().abs().max()) < 1e-5 * float(wanted.detach().abs().max())
    weights = torch.randn(found.shape, generator=generator)
    slopes = [torch.autograd.grad((hidden * weights).sum(), rows)[0] for hidden in (found, wanted)]
    assert float((slopes[0] - slopes[1]).abs().max()) < 1e-5 * float(slopes[1].abs().max())


def test_it_is_used_where_it_is_fastest():
    assert len(GROUPED) == 11
    llama, bloom = FAMILIES["llama"], FAMILIES["bloom"]
    assert attention.choose_attention(llama, None, "cpu") == "grouped"
    assert attention.choose_attention(llama, None, "cuda") == "sdpa"
    assert attention.choose_attention(llama, "grouped", "cuda") == "grouped"
    assert {attention.choose_attention(bloom, None, device) for device in ("cpu", "cuda")} == {"eager"}


def test_scores_that_are_too_many_go_to_the_fused_kernel(monkeypatch):
    def fused(*_, **__):
        raise AssertionError("fused")

    backbone = tiny_backbone("llama")
    rows, mask = torch.zeros(2, 12, backbone.embedding_size), torch.ones(2, 12, dtype=torch.long)
    mask[0, -1] = 0
    monkeypatch.setattr(attention, "_fused", fused)
    backbone.run(rows, mask=mask, positions=positions(mask))
    monkeypatch.setattr(attention, "_MOST_SCORES", 2 * 4 * 12 * 12 - 1)
    with pytest.raises(AssertionError, match="fused"):
        backbone.run(rows, mask=mask, positions=positions(mask))

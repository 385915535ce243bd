"""Faster parts in the places of transformers' own: the same numbers, the same gradients, and back again."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from softprompt.backbones import fusing
from softprompt.backbones.backbone import Backbone
from softprompt.backbones.fusing import Fused, fuse, unfused
from softprompt.testing.tiny import tiny_backbone

NORMS = {"gemma": Gemma3RMSNorm, "llama": LlamaRMSNorm, "t5": T5LayerNorm}


def both(kind: type[nn.Module], size: int = 24, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    """transformers' norm and ours, with the same weights, in a model each."""
    torch.manual_seed(0)
    own = nn.Sequential(kind(size) if kind is not NewGELUActivation else kind()).to(dtype)
    for weight in own.parameters():
        nn.init.normal_(weight, 0.5)
    faster = copy.deepcopy(own)
    fuse(faster)
    assert isinstance(faster[0], Fused)
    return own, faster


def through(module: nn.Module, rows: Tensor, gradient: Tensor) -> list[Tensor]:
    """What comes out, and the gradients at the rows and at the weights."""
    rows = rows.clone().requires_grad_()
    out = module(rows)
    found = torch.autograd.grad(out, [rows, *module.parameters()], gradient)
    return [out.detach(), *found]


@pytest.mark.parametrize("shape", [(24,), (1, 24), (3, 24), (2, 37, 24), (2, 4, 9, 24)], ids=str)
@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("bytes_at_once", [1, 300, 1 << 20])
def test_a_norm_is_the_same_norm(
    kind: str, shape: tuple[int, ...], bytes_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusing, "_AT_ONCE", bytes_at_once)
    own, faster = both(NORMS[kind])
    rows, gradient = torch.randn(2, *shape)
    for found, wanted in zip(through(faster, rows, gradient), through(own, rows, gradient), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_norm_takes_views_and_leaves_their_strides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusing, "_AT_ONCE", 2000)
    own, faster = both(Gemma3RMSNorm)
    rows, gradient = (torch.randn(5, 7, 3, 24).transpose(1, 2) for _ in range(2))
    assert not rows.is_contiguous()
    assert faster(rows).stride() == own(rows).stride()
    for found, wanted in zip(through(faster, rows, gradient), through(own, rows, gradient), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    expanded = torch.ones(()).expand(5, 3, 24)  # as the gradient of a sum comes
    for found, wanted in zip(
        through(faster, rows[:, :, 0], expanded), through(own, rows[:, :, 0], expanded), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_norm_rounds_bf16_once() -> None:
    own, faster = both(Gemma3RMSNorm, dtype=torch.bfloat16)
    rows = torch.randn(50, 24).bfloat16()
    assert faster(rows).dtype == torch.bfloat16
    assert torch.equal(faster(rows), own(rows))
    exact = both(LlamaRMSNorm)[1]  # the same weights, not rounded
    ours, theirs = (both(LlamaRMSNorm, dtype=torch.bfloat16)[i](rows).float() for i in (1, 0))
    truth = exact(rows.float())
    assert (ours - truth).abs().mean() <= (theirs - truth).abs().mean()  # Llama's own rounds twice


def test_gpt2s_activation_is_torchs() -> None:
    own, faster = both(NewGELUActivation)
    rows, gradient = torch.randn(2, 3, 24)
    for found, wanted in zip(through(faster, rows, gradient), through(own, rows, gradient), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", NORMS)
def test_training_and_serving_see_the_same_numbers(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own, faster = both(NORMS[kind])
    rows = torch.randn(5, 7, 24)
    with torch.no_grad():
        few, wanted = faster(rows), own(rows)
    monkeypatch.setattr(fusing, "_AT_ONCE", 500)
    with torch.no_grad():
        many = faster(rows)
    learning = faster(rows.clone().requires_grad_()).detach()
    assert all(torch.equal(found, wanted) for found in (few, many, learning))


def test_rows_that_are_not_there() -> None:
    assert both(LlamaRMSNorm)[1](torch.empty(0, 24)).shape == (0, 24)


@pytest.mark.parametrize("family", ["gemma3", "llama", "gpt2", "t5"])
def test_a_backbone_computes_with_them_and_can_be_had_without(family: str) -> None:
    backbone = tiny_backbone(family)
    names = [name for name, module in backbone.model.named_modules() if isinstance(module, Fused)]
    plain = backbone.as_in_transformers()
    assert names
    assert not any(isinstance(module, Fused) for module in plain.modules())
    assert [type(plain.get_submodule(name)).__module__.split(".")[0] for name in names] == ["transformers"] * len(names)
    ours, theirs = (dict(model.named_parameters()) for model in (backbone.model, plain))
    assert list(ours) == list(theirs)
    assert all(weight is theirs[name] for name, weight in ours.items())
    assert any(isinstance(module, Fused) for module in backbone.model.modules())  # the backbone itself is as it was


def test_a_copy_of_a_backbone_can_be_had_without_them_too() -> None:
    backbone = tiny_backbone("gemma3")
    again = Backbone(copy.deepcopy(backbone.model), backbone.tokenizer, name="again")
    with torch.no_grad():
        again.model.model.norm.weight.fill_(3.0)
    plain = unfused(again.model)
    assert plain.model.norm.weight is again.model.model.norm.weight
    assert not torch.equal(plain.model.norm.weight, backbone.model.model.norm.weight)

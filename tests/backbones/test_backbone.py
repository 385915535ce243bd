"""Every family: split runs equal whole ones, with gradients; logits of some rows equal those columns of all."""

import pytest
import torch
from torch import Tensor

from softprompt.backbones import heads
from softprompt.backbones.backbone import Backbone, KeyValues
from softprompt.testing.tiny import SPECIAL_FAMILIES, TINY_FAMILIES, WINDOW, tiny_backbone

FAMILIES = (*TINY_FAMILIES, *SPECIAL_FAMILIES)
WINDOWED = ("gemma2", "gemma3", "qwen2", "qwen3", "mistral", "phi3")


def embeddings(backbone: Backbone, batch: int, length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(batch, length, backbone.embedding_size, generator=generator) * backbone.embedding_rms
    return rows.requires_grad_()


def positions_of(mask: Tensor, columns: int) -> Tensor:
    return (mask.cumsum(1) - 1).clamp(0)[:, -columns:]


def whole(backbone: Backbone, rows: Tensor, mask: Tensor) -> Tensor:
    return backbone.run(rows, mask=mask, positions=positions_of(mask, rows.shape[1]))[0]


def split(backbone: Backbone, rows: Tensor, mask: Tensor, at: int) -> tuple[Tensor, KeyValues]:
    _, past = backbone.run(rows[:, :at], mask=mask[:, :at], positions=positions_of(mask[:, :at], at), keep=True)
    assert past is not None
    rest = rows[:, at:]
    hidden, _ = backbone.run(rest, mask=mask, positions=positions_of(mask, rest.shape[1]), past=past)
    return hidden, past


def off(found: Tensor, wanted: Tensor) -> float:
    return float(((found - wanted).abs().max() / wanted.abs().max()).detach())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("at", [3, 2 * WINDOW + 1])
def test_a_run_over_a_past_equals_the_concatenated_run_with_gradients(family, at):
    backbone = tiny_backbone(family)
    rows = embeddings(backbone, 2, 30)
    mask = torch.ones(2, 30, dtype=torch.long)
    mask[1, -4:] = 0  # right padding
    wanted = whole(backbone, rows, mask)
    found, _ = split(backbone, rows, mask, at)
    real = mask[:, at:, None]
    assert off(found * real, wanted[:, at:] * real) < 1e-5
    weights = torch.randn(wanted[:, at:].shape, generator=torch.Generator().manual_seed(1)) * real
    (gradient,) = torch.autograd.grad((wanted[:, at:] * weights).sum(), rows)
    (through_past,) = torch.autograd.grad((found * weights).sum(), rows)
    assert off(through_past, gradient) < 1e-5


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_a_past_padded_on_the_left_changes_nothing(family):
    backbone = tiny_backbone(family)
    rows = embeddings(backbone, 1, 24)
    mask = torch.ones(1, 24, dtype=torch.long)
    wanted, past = split(backbone, rows, mask, 11)
    padded = [tuple(torch.nn.functional.pad(t, (0, 0, 5, 0)) for t in layer) for layer in past]
    mask = torch.cat([torch.zeros(1, 5, dtype=torch.long), mask], 1)
    found, _ = backbone.run(rows[:, 11:], mask=mask, positions=positions_of(mask, 13), past=padded)
    assert off(found, wanted) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_one_past_serves_a_batch_as_an_expanded_view_and_is_left_alone(family):
    backbone = tiny_backbone(family)
    prefix, rows = embeddings(backbone, 1, 6), embeddings(backbone, 3, 9, seed=1)
    mask = torch.ones(3, 15, dtype=torch.long)
    wanted = whole(backbone, torch.cat([prefix.expand(3, -1, -1), rows], 1), mask)[:, 6:]
    _, past = backbone.run(prefix, mask=mask[:1, :6], positions=positions_of(mask[:1, :6], 6), keep=True)
    views = [(keys.expand(3, -1, -1, -1), values.expand(3, -1, -1, -1)) for keys, values in past]
    before = [(keys.clone(), values.clone()) for keys, values in past]
    for _ in range(2):
        found, kept = backbone.run(rows, mask=mask, positions=positions_of(mask, 9), past=views, keep=True)
        assert off(found, wanted) < 1e-5
    assert all(torch.equal(t, u) for old, new in zip(before, past, strict=True) for t, u in zip(old, new, strict=True))
    assert len(kept) == backbone.num_layers
    assert {tensor.shape[2] for layer in kept for tensor in layer} == {15}  # windows trim no columns


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_logits_of_some_rows_are_those_columns_of_the_models_own(family, tied):
    backbone = tiny_backbone(family, tie_word_embeddings=tied)
    rows = embeddings(backbone, 2, 7).detach()
    mask = torch.ones(2, 7, dtype=torch.long)
    own = backbone.model(inputs_embeds=rows, attention_mask=mask, position_ids=positions_of(mask, 7)).logits[:, -1]
    hidden = whole(backbone, rows, mask)[:, -1]
    ids = torch.tensor([5, 299, 5, 17])
    assert backbone.logits(hidden).dtype == torch.float32
    torch.testing.assert_close(backbone.logits(hidden), own, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(backbone.logits(hidden, ids), own[:, ids], rtol=1e-5, atol=1e-5)


def test_logits_add_the_heads_bias():
    backbone = tiny_backbone("llama")
    plain = backbone.logits(torch.zeros(1, backbone.embedding_size))
    backbone.model.lm_head.bias = torch.nn.Parameter(torch.arange(300.0), requires_grad=False)
    biased = backbone.logits(torch.zeros(1, backbone.embedding_size))
    assert torch.equal(biased - plain, torch.arange(300.0)[None])
    assert backbone.logits(torch.zeros(1, backbone.embedding_size), torch.tensor([7, 2])).tolist() == [[7.0, 2.0]]


def test_logits_and_gradients_are_the_same_when_the_vocabulary_is_read_in_slices(monkeypatch):
    backbone = tiny_backbone("llama", dtype=torch.bfloat16)
    hidden = torch.randn(3, backbone.embedding_size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    asked = torch.randn(3, 300, generator=torch.Generator().manual_seed(1))
    wanted = backbone.logits(hidden)
    (slope,) = torch.autograd.grad((wanted * asked).sum(), hidden)
    monkeypatch.setitem(heads._AT_ONCE, "cpu", 7 * 4 * backbone.embedding_size)
    sliced = backbone.logits(hidden)
    assert sliced.grad_fn.name() == "_ProductsBackward"
    torch.testing.assert_close(sliced, wanted)
    torch.testing.assert_close(torch.autograd.grad((sliced * asked).sum(), hidden)[0], slope)


def test_many_states_in_bf16_have_the_logits_of_fp32(monkeypatch):
    """Two products in bf16 leave 16 right bits, where one leaves 8; the gradient is rounded to bf16 in any case."""
    backbone = tiny_backbone("llama", dtype=torch.bfloat16)
    monkeypatch.setitem(heads._AT_ONCE, "cpu", 7 * 4 * backbone.embedding_size)
    hidden = torch.randn(heads._MANY, backbone.embedding_size, generator=torch.Generator().manual_seed(0))
    hidden = hidden.bfloat16().requires_grad_()
    asked = torch.randn(heads._MANY, 300, generator=torch.Generator().manual_seed(1))
    found = backbone.logits(hidden)
    assert found.dtype == torch.float32
    wanted = hidden.float() @ backbone.model.get_output_embeddings().weight.float().T
    error = 2**-15 * float(wanted.detach().abs().max())
    assert float((found - wanted).detach().abs().max()) < error
    (slope,) = torch.autograd.grad((found * asked).sum(), hidden)
    (right,) = torch.autograd.grad((wanted * asked).sum(), hidden)
    assert slope.dtype == torch.bfloat16
    assert float((slope - right).abs().max()) < 2**-6 * float(right.abs().max())
    few = backbone.logits(hidden[:2])
    assert float((few - found[:2]).detach().abs().max()) < error


def test_output_rows_that_learn_get_their_gradients(monkeypatch):
    backbone = tiny_backbone("llama", dtype=torch.bfloat16)
    monkeypatch.setitem(heads._AT_ONCE, "cpu", 7 * 4 * backbone.embedding_size)
    rows = backbone.model.get_output_embeddings().weight.requires_grad_()
    backbone.logits(torch.ones(1, backbone.embedding_size)).sum().backward()
    assert torch.equal(rows.grad, torch.ones_like(rows))


def test_gemma_2_caps_its_logits():
    backbone = tiny_backbone("gemma2", final_logit_softcapping=3.0)
    hidden = 100 * torch.randn(4, backbone.embedding_size, generator=torch.Generator().manual_seed(0))
    assert 2.9 < float(backbone.logits(hidden).abs().max()) <= 3.0


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_keys_and_values_of_rows_are_those_that_a_run_keeps(family):
    backbone = tiny_backbone(family)
    rows, mask = embeddings(backbone, 2, 7).detach(), torch.ones(2, 7, dtype=torch.long)
    _, kept = backbone.run(rows, mask=mask, positions=positions_of(mask, 7), keep=True)
    found = backbone.key_values(rows, mask=mask, positions=positions_of(mask, 7))
    assert all(torch.equal(a, b) for one, two in zip(found, kept, strict=True) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("family", WINDOWED)
def test_the_window_of_a_tiny_backbone_bites(family):
    mask = torch.ones(1, 30, dtype=torch.long)
    narrow, wide = (tiny_backbone(family, window=window) for window in (WINDOW, 64))
    rows = embeddings(narrow, 1, 30).detach()
    assert off(whole(narrow, rows, mask), whole(wide, rows, mask)) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_the_prompt_changes_the_output_and_the_weights_take_no_gradient(family):
    backbone = tiny_backbone(family)
    rows = embeddings(backbone, 1, 8)
    mask = torch.ones(1, 8, dtype=torch.long)
    hidden = whole(backbone, rows, mask)
    other = whole(backbone, torch.cat([-rows[:, :1], rows[:, 1:]], 1), mask)
    assert off(other[:, -1], hidden[:, -1]) > 1e-4
    hidden.sum().backward()
    assert rows.grad is not None
    assert not backbone.model.training
    assert all(p.grad is None and not p.requires_grad for p in backbone.model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_embedded_tokens_are_the_modules_output(family):
    backbone = tiny_backbone(family)
    ids = torch.tensor([[3, 8], [250, 1]])
    embedded = backbone.embed(ids)
    assert embedded.shape == (2, 2, backbone.embedding_size)
    assert not embedded.requires_grad
    scale = backbone.model.config.hidden_size**0.5 if family.startswith("gemma") else 1.0
    torch.testing.assert_close(embedded, backbone.model.get_input_embeddings().weight[ids] * scale)
    assert backbone.embedding_rms == pytest.approx(0.15 * scale, rel=0.05)


def test_a_bf16_backbone_takes_fp32_prompts_and_answers_in_fp32():
    backbone = tiny_backbone("gemma3", dtype=torch.bfloat16)
    rows = embeddings(backbone, 1, 6)
    hidden = whole(backbone, rows, torch.ones(1, 6, dtype=torch.long))
    assert (backbone.dtype, hidden.dtype) == (torch.bfloat16, torch.bfloat16)
    logits = backbone.logits(hidden[:, -1], torch.tensor([4, 5]))
    assert logits.dtype == torch.float32
    logits.sum().backward()
    assert rows.grad is not None
    assert rows.grad.dtype == torch.float32


def test_what_a_backbone_says_of_itself():
    backbone = tiny_backbone("gemma3", num_hidden_layers=3, layer_types=["sliding_attention"] * 3)
    assert (backbone.name, backbone.model_type, backbone.num_layers) == ("tiny-gemma3", "gemma3_text", 3)
    assert (backbone.bos, backbone.eos, backbone.pad, backbone.vocab_size) == (0, 1, 2, 300)
    assert repr(backbone) == "Backbone('tiny-gemma3', gemma3_text, float32, cpu)"


def test_a_tokenizer_without_padding_pads_with_its_end():
    backbone = tiny_backbone("llama")
    backbone.tokenizer.pad_token = None
    assert Backbone(backbone.model, backbone.tokenizer, name="again").pad == backbone.eos
    backbone.tokenizer.eos_token = None
    assert Backbone(backbone.model, backbone.tokenizer, name="again").pad == 0


def test_an_embedding_size_other_than_the_hidden_size():
    backbone = tiny_backbone("opt_projected")
    assert (backbone.embedding_size, backbone.model.config.hidden_size) == (32, 48)
    assert whole(backbone, embeddings(backbone, 1, 5), torch.ones(1, 5, dtype=torch.long)).shape == (1, 5, 32)


def test_longrope_goes_wrong_across_its_switch_and_right_with_a_dummy_token():
    """The recipe that `position_switch` documents; modeling applies it."""
    backbone = tiny_backbone("phi3_longrope")
    switch = backbone.position_switch
    assert switch == 32
    rows = embeddings(backbone, 1, switch + 8).detach()
    mask = torch.ones(1, switch + 8, dtype=torch.long)
    wanted = whole(backbone, rows, mask)[:, 10:]
    plain, _ = split(backbone, rows, mask, 10)
    assert off(plain, wanted) > 1e-2
    prefix = torch.cat([rows[:, :10], rows[:, :1]], 1)
    at = torch.cat([torch.arange(10), torch.tensor([switch])])[None]
    _, past = backbone.run(prefix, mask=mask[:, :11], positions=at, keep=True)
    past = [(keys[:, :, :10], values[:, :, :10]) for keys, values in past]
    found, _ = backbone.run(rows[:, 10:], mask=mask, positions=positions_of(mask, switch - 2), past=past)
    assert off(found, wanted) < 1e-5

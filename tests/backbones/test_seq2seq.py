"""Encoder-decoders: rows are encoded once, answers decoded as by the model, deep prompts sit in the decoder."""

import pytest
import torch
from torch import Tensor

from softprompt.backbones.backbone import Backbone, DecoderPast
from softprompt.errors import UnsupportedBackboneError
from softprompt.testing.tiny import TINY_SEQ2SEQ, tiny_backbone

LENGTHS = (3, 30, 1, 12)


def rows_of(backbone: Backbone, lengths=LENGTHS, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return backbone.embedding_rms * torch.randn(
        len(lengths), max(lengths), backbone.embedding_size, generator=generator
    )


def mask_of(lengths=LENGTHS) -> Tensor:
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def targets(backbone: Backbone, batch: int, extra: int = 5) -> Tensor:
    answers = torch.randint(4, 300, (batch, extra), generator=torch.Generator().manual_seed(3))
    return torch.cat([torch.tensor([backbone.answer_start]).expand(batch, -1), answers], 1)


def deep(backbone: Backbone, slots: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    ids = targets(backbone, 1)
    states = backbone.encode(rows_of(backbone, (3,)), mask=mask_of((3,)))
    _, kept = backbone.decode(ids, states, mask=mask_of((3,)), keep=True)
    assert kept is not None
    generator = torch.Generator().manual_seed(seed)
    return [
        tuple(torch.randn(1, t.shape[1], slots, t.shape[3], generator=generator).requires_grad_() for t in layer)
        for layer in kept.own or ()
    ]


def off(found: Tensor, wanted: Tensor) -> float:
    return float(((found - wanted).abs().max() / wanted.abs().max()).detach())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", TINY_SEQ2SEQ)
def test_a_row_alone_is_the_row_in_a_batch_with_gradients(family, attention):
    backbone = tiny_backbone(family, attention=attention)
    rows, mask, ids = rows_of(backbone).requires_grad_(), mask_of(), targets(backbone, 4)
    states = backbone.encode(rows, mask=mask)
    together, _ = backbone.decode(ids, states, mask=mask)
    weights = torch.randn(together.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((together * weights).sum(), rows)
    for i, length in enumerate(LENGTHS):
        single = rows[i : i + 1, :length].detach().requires_grad_()
        own = backbone.encode(single, mask=mask[i : i + 1, :length])
        assert off(states[i, :length], own[0]) < 1e-5
        alone, _ = backbone.decode(ids[i : i + 1], own, mask=mask[i : i + 1, :length])
        assert off(together[i], alone[0]) < 1e-5
        (slope,) = torch.autograd.grad((alone * weights[i : i + 1]).sum(), single)
        assert off(gradient[i, :length], slope[0]) < 1e-5
        assert not gradient[i, length:].any()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", TINY_SEQ2SEQ)
def test_logits_are_the_models_own(family, tied):
    backbone = tiny_backbone(family, tie_word_embeddings=tied) if family == "t5" else tiny_backbone(family)
    if family == "bart":
        backbone.model.final_logits_bias.copy_(torch.randn(1, 300, generator=torch.Generator().manual_seed(5)))
    words = torch.tensor([[9, 40, 77, 200, backbone.eos]])
    ids = targets(backbone, 1)
    mask = torch.ones_like(words)
    with torch.no_grad():
        own = backbone.model(input_ids=words, attention_mask=mask, decoder_input_ids=ids).logits[0]
        hidden, _ = backbone.decode(ids, backbone.encode(backbone.embed(words), mask=mask), mask=mask)
    some = torch.tensor([5, 299, 5, 17])
    torch.testing.assert_close(backbone.logits(hidden[0]), own, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(backbone.logits(hidden[0], some), own[:, some], rtol=1e-5, atol=1e-5)


def test_t5_scales_before_its_output_rows_and_v1_1_does_not():
    hidden = torch.ones(1, 48)
    scaled, plain = tiny_backbone("t5").head, tiny_backbone("t5_gated").head
    assert scaled is not None
    assert plain is not None
    torch.testing.assert_close(scaled.states(hidden), hidden * 48**-0.5)
    assert torch.equal(plain.states(hidden), hidden)
    assert not torch.equal(plain.rows(torch.tensor([5]))[0], tiny_backbone("t5_gated").embed(torch.tensor(5)))


@pytest.mark.parametrize("family", TINY_SEQ2SEQ)
def test_one_encoding_serves_many_answers_as_an_expanded_view(family):
    backbone = tiny_backbone(family)
    rows, mask, ids = rows_of(backbone, (12,)), mask_of((12,)), targets(backbone, 3)
    states = backbone.encode(rows, mask=mask)
    together, _ = backbone.decode(ids, states.expand(3, -1, -1), mask=mask.expand(3, -1))
    for i in range(3):
        assert off(together[i], backbone.decode(ids[i : i + 1], states, mask=mask)[0][0]) < 1e-5


@pytest.mark.parametrize("family", TINY_SEQ2SEQ)
def test_decoding_goes_on_from_what_was_kept(family):
    """Step by step is the whole at once, and the cross-attention's keys and values are not made again."""
    backbone = tiny_backbone(family)
    rows, mask, ids = rows_of(backbone), mask_of(), targets(backbone, 4)
    states = backbone.encode(rows, mask=mask)
    wanted, _ = backbone.decode(ids, states, mask=mask)
    past: DecoderPast | None = None
    for step in range(ids.shape[1]):
        seen = states if step == 0 else torch.full_like(states, 7.0)
        hidden, past = backbone.decode(ids[:, step : step + 1], seen, mask=mask, past=past, keep=True)
        assert off(hidden[:, 0], wanted[:, step]) < 1e-5
    assert past is not None
    assert past.own is not None
    assert past.cross is not None
    assert (len(past.own), past.own[0][0].shape[2], past.cross[0][0].shape[2]) == (3, ids.shape[1], 30)


@pytest.mark.parametrize("family", TINY_SEQ2SEQ)
def test_a_deep_prompt_in_the_decoder_changes_the_answer_and_takes_gradients(family):
    backbone = tiny_backbone(family)
    past, mask, ids = deep(backbone, 4), mask_of((12,)), targets(backbone, 1)
    states = backbone.encode(rows_of(backbone, (12,)), mask=mask)
    bare, _ = backbone.decode(ids, states, mask=mask)
    found, _ = backbone.decode(ids, states, mask=mask, past=DecoderPast(past))
    assert off(found, bare) > 1e-2
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    slopes = torch.autograd.grad((found * weights).sum(), [tensor for layer in past for tensor in layer])
    assert all(slope.abs().max() > 1e-4 for slope in slopes)


@pytest.mark.parametrize("family", TINY_SEQ2SEQ)
def test_a_deep_prompt_of_a_text_is_the_text(family):
    """The reference: tokens decoded before are the same as their keys and values put there from outside."""
    backbone = tiny_backbone(family)
    rows, mask, ids = rows_of(backbone, (12,)), mask_of((12,)), targets(backbone, 1, 9)
    states = backbone.encode(rows, mask=mask)
    wanted, _ = backbone.decode(ids, states, mask=mask)
    _, kept = backbone.decode(ids[:, :6], states, mask=mask, keep=True)
    assert kept is not None
    found, _ = backbone.decode(ids[:, 6:], states, mask=mask, past=DecoderPast(kept.own))
    assert off(found, wanted[:, 6:]) < 1e-5


def by_hand(backbone: Backbone, ids: Tensor, states: Tensor, past) -> Tensor:
    """BART's decoder written out: attention over the prompt's keys and values and its own, then over the states."""
    decoder = backbone.model.get_decoder()
    slots, length = past[0][0].shape[2], ids.shape[1]
    positions = decoder.embed_positions.weight[torch.arange(length) + slots + decoder.embed_positions.offset]
    hidden = decoder.layernorm_embedding(decoder.embed_tokens(ids) + positions)
    causal = (torch.arange(slots + length) <= torch.arange(length)[:, None] + slots).float().log()
    for layer, (keys, values) in zip(decoder.layers, past, strict=True):
        own = attend(layer.self_attn, hidden, hidden, (keys[0], values[0]), causal)
        hidden = layer.self_attn_layer_norm(hidden + own)
        none = tuple(t[0][:, :0] for t in (keys, values))
        hidden = layer.encoder_attn_layer_norm(hidden + attend(layer.encoder_attn, hidden, states, none, 0.0))
        wide = layer.fc2(layer.activation_fn(layer.fc1(hidden)))
        hidden = layer.final_layer_norm(hidden + wide)
    return hidden


def attend(part, asking: Tensor, asked: Tensor, past, bias) -> Tensor:
    query, key, value = (
        linear(states)[0].view(states.shape[1], 4, -1).transpose(0, 1)
        for linear, states in ((part.q_proj, asking), (part.k_proj, asked), (part.v_proj, asked))
    )
    key, value = torch.cat([past[0], key], 1), torch.cat([past[1], value], 1)
    weights = torch.softmax(query @ key.transpose(1, 2) / key.shape[2] ** 0.5 + bias, dim=-1)
    return part.out_proj((weights @ value).transpose(0, 1).reshape(1, asking.shape[1], -1))


def test_a_deep_prompt_in_bart_is_what_the_equations_say():
    backbone = tiny_backbone("bart")
    past, mask, ids = deep(backbone, 5), mask_of((12,)), targets(backbone, 1)
    states = backbone.encode(rows_of(backbone, (12,)), mask=mask)
    found, _ = backbone.decode(ids, states, mask=mask, past=DecoderPast(past))
    assert off(found, by_hand(backbone, ids, states, past)) < 1e-5


@pytest.mark.parametrize("family", TINY_SEQ2SEQ)
def test_deep_prompts_of_two_lengths_share_a_batch(family):
    """BART's decoder counts positions by column and takes none from outside; rows are put right all the same."""
    backbone = tiny_backbone(family)
    long, short = deep(backbone, 9), deep(backbone, 4, seed=1)
    rows, mask, ids = rows_of(backbone, (7, 12)), mask_of((7, 12)), targets(backbone, 2)
    both = [
        tuple(torch.cat([a, torch.nn.functional.pad(b, (0, 0, 5, 0))]) for a, b in zip(one, two, strict=True))
        for one, two in zip(long, short, strict=True)
    ]
    past_mask = (torch.arange(9) >= torch.tensor([[0], [5]])).long()
    states = backbone.encode(rows, mask=mask)
    together, _ = backbone.decode(ids, states, mask=mask, past=DecoderPast(both), past_mask=past_mask)
    for i, own in enumerate((long, short)):
        alone, _ = backbone.decode(ids[i : i + 1], states[i : i + 1], mask=mask[i : i + 1], past=DecoderPast(own))
        assert off(together[i], alone[0]) < 1e-5


def test_the_columns_of_bart_would_be_wrong_so_the_test_above_can_fail():
    backbone = tiny_backbone("bart")
    short, mask, ids = deep(backbone, 4), mask_of((12,)), targets(backbone, 1)
    states = backbone.encode(rows_of(backbone, (12,)), mask=mask)
    wanted, _ = backbone.decode(ids, states, mask=mask, past=DecoderPast(short))
    shifted = [tuple(torch.nn.functional.pad(t, (0, 0, 5, 0)) for t in layer) for layer in short]
    from transformers.cache_utils import EncoderDecoderCache

    from softprompt.backbones.caches import cache_of

    plain = backbone.model.get_decoder()(
        input_ids=ids,
        attention_mask=torch.cat([(torch.arange(9) >= 5).long()[None], torch.ones_like(ids)], 1),
        encoder_hidden_states=states,
        encoder_attention_mask=mask,
        past_key_values=EncoderDecoderCache(cache_of(shifted, torch.float32), cache_of(None, torch.float32)),
    ).last_hidden_state
    assert off(plain, wanted) > 1e-2


@pytest.mark.parametrize("family", TINY_SEQ2SEQ)
def test_answers_start_as_the_models_own_targets_do(family):
    """Teacher forcing shifts the tokenizer's own targets to the right, behind the start token."""
    backbone = tiny_backbone(family)
    labels = torch.tensor([backbone.tokenizer.encode("great")])
    if family == "bart":
        from transformers.models.bart.modeling_bart import shift_tokens_right

        shifted = shift_tokens_right(labels, backbone.pad, backbone.model.config.decoder_start_token_id)
    else:
        shifted = backbone.model._shift_right(labels)
    words = backbone.tokenizer.encode("great", add_special_tokens=False)
    assert (*backbone.answer_start, *words) == tuple(shifted[0].tolist())
    assert labels[0, -1] == backbone.eos


def test_it_cannot_be_run_as_a_decoder():
    backbone = tiny_backbone("t5")
    one = torch.ones(1, 1, dtype=torch.long)
    with pytest.raises(UnsupportedBackboneError, match="`tiny-t5` is an encoder-decoder: rows are encoded, answers"):
        backbone.run(backbone.embed(one), mask=one, positions=one - 1)
    with pytest.raises(UnsupportedBackboneError, match="rows are encoded, answers decoded"):
        backbone.key_values(backbone.embed(one), mask=one, positions=one - 1)


def test_no_start_token_is_refused():
    backbone = tiny_backbone("t5")
    backbone.model.config.decoder_start_token_id = None
    with pytest.raises(UnsupportedBackboneError, match=r"config.json of `mine` names no decoder_start_token_id, so"):
        Backbone(backbone.model, backbone.tokenizer, name="mine")

"""Encoders: a row does not depend on its batch, deep prompts do what they should, words are the model's own."""

import pytest
import torch
from torch import Tensor

from softprompt.backbones.backbone import Backbone
from softprompt.errors import UnknownNameError, UnsupportedBackboneError
from softprompt.testing.tiny import TINY_ENCODERS, tiny_backbone

DEEP = ("bert", "minilm", "roberta", "xlm_roberta")
NOT_DEEP = ("distilbert", "modernbert")
LENGTHS = (3, 30, 1, 12, 19)  # ModernBERT's window is 8


def rows_of(backbone: Backbone, lengths=LENGTHS, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return backbone.embedding_rms * torch.randn(
        len(lengths), max(lengths), backbone.embedding_size, generator=generator
    )


def mask_of(lengths=LENGTHS) -> Tensor:
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def positions_of(mask: Tensor, columns: int) -> Tensor:
    return (mask.cumsum(1) - 1).clamp(0)[:, -columns:]


def run(backbone: Backbone, rows: Tensor, mask: Tensor, past=None) -> Tensor:
    return backbone.run(rows, mask=mask, positions=positions_of(mask, rows.shape[1]), past=past)[0]


def off(found: Tensor, wanted: Tensor) -> float:
    return float(((found - wanted).abs().max() / wanted.abs().max()).detach())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", TINY_ENCODERS)
def test_a_row_alone_is_the_row_in_a_batch_with_gradients(family, attention):
    backbone = tiny_backbone(family, attention=attention)
    rows, mask = rows_of(backbone).requires_grad_(), mask_of()
    together = run(backbone, rows, mask)
    weights = torch.randn(together.shape, generator=torch.Generator().manual_seed(1)) * mask[..., None]
    (gradient,) = torch.autograd.grad((together * weights).sum(), rows)
    for i, length in enumerate(LENGTHS):
        single = rows[i : i + 1, :length].detach().requires_grad_()
        alone = run(backbone, single, mask[i : i + 1, :length])
        assert off(together[i, :length], alone[0]) < 1e-5
        (own,) = torch.autograd.grad((alone * weights[i : i + 1, :length]).sum(), single)
        assert off(gradient[i, :length], own[0]) < 1e-5
        assert not gradient[i, length:].any()


@pytest.mark.parametrize("family", TINY_ENCODERS)
def test_embedded_rows_are_the_models_own_tokens(family):
    """Positions and token types are the ones that the model gives to token ids by itself."""
    backbone = tiny_backbone(family)
    ids = torch.tensor([backbone.tokenizer.encode("a gripping film with a warm heart: good, great, wonderful")])
    mask = torch.ones_like(ids)
    with torch.no_grad():
        wanted = backbone.model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert off(run(backbone, backbone.embed(ids), mask), wanted) < 1e-5


@pytest.mark.parametrize("family", TINY_ENCODERS)
def test_every_token_of_the_prompt_reaches_every_slot(family):
    backbone = tiny_backbone(family)
    rows, mask = rows_of(backbone), mask_of()
    other = rows.clone()
    other[:, 0] = -other[:, 0]
    changed = (run(backbone, rows, mask) - run(backbone, other, mask)).abs().amax(-1)
    # A window of 8 sees 4 slots to each side, and 2 of the layers are one with a window and one without.
    assert (changed[mask.bool()] > 1e-4).all()


def test_the_window_of_modernbert_bites():
    mask = torch.ones(1, 30, dtype=torch.long)
    narrow, wide = tiny_backbone("modernbert"), tiny_backbone("modernbert", local_attention=64)
    rows = rows_of(narrow, (30,))
    assert off(run(narrow, rows, mask), run(wide, rows, mask)) > 1e-3


def test_a_hole_would_be_wrong_in_modernbert_so_the_test_of_rows_can_fail():
    backbone = tiny_backbone("modernbert")
    rows, mask = rows_of(backbone, (20,)), torch.ones(1, 20, dtype=torch.long)
    wanted = run(backbone, rows, mask)
    holed = torch.cat([rows[:, :5], torch.zeros(1, 6, rows.shape[2]), rows[:, 5:]], 1)
    mask = torch.cat([mask[:, :5], torch.zeros(1, 6, dtype=torch.long), mask[:, 5:]], 1)
    assert off(run(backbone, holed, mask)[:, 11:], wanted[:, 5:]) > 1e-3


@pytest.mark.parametrize("family", ["roberta", "xlm_roberta"])
def test_positions_start_behind_the_padding_id_and_end_with_the_table(family):
    backbone = tiny_backbone(family)
    assert (backbone.limits.first_position, backbone.max_positions) == (3, 253)
    mask = torch.ones(1, 253, dtype=torch.long)
    rows = rows_of(backbone, (253,))
    run(backbone, rows, mask)
    with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)"):
        run(backbone, torch.cat([rows, rows[:, :1]], 1), torch.ones(1, 254, dtype=torch.long))


def deep(backbone: Backbone, slots: int, batch: int = 1) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(slots)
    shapes = [t.shape for t in backbone.key_values(**_one(backbone))[0]]
    return [
        tuple(torch.randn(batch, s[1], slots, s[3], generator=generator).requires_grad_() for s in shapes)
        for _ in range(backbone.num_layers)
    ]


def _one(backbone: Backbone):
    one = torch.ones(1, 1, dtype=torch.long)
    return {"embeddings": backbone.embed(one), "mask": one, "positions": one - 1}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", DEEP)
def test_a_deep_prompt_is_a_prefix_that_does_not_see_the_row(family, attention):
    """The reference is the model's own pass over the whole row, its mask telling the prefix to look at itself only."""
    backbone = tiny_backbone(family, attention=attention)
    rows, mask = rows_of(backbone, (14, 20)), mask_of((14, 20))
    mask[:, :6] = 1
    blind = mask[:, None, None, :].expand(2, 1, 20, 20).clone()
    blind[:, :, :6, 6:] = 0
    seen = blind.bool() if attention == "sdpa" else (1 - blind.float()) * torch.finfo(torch.float32).min
    with torch.no_grad():
        wanted = backbone.model.base_model(
            inputs_embeds=rows,
            attention_mask=seen,
            position_ids=positions_of(mask, 20) + backbone.limits.first_position,
        ).last_hidden_state
    past = backbone.key_values(rows[:, :6], mask=mask[:, :6], positions=positions_of(mask[:, :6], 6))
    found = run(backbone, rows[:, 6:], mask, past)
    real = mask[:, 6:, None]
    assert off(found * real, wanted[:, 6:] * real) < 1e-5
    assert off(run(backbone, rows[:, 6:], mask[:, 6:]) * real, wanted[:, 6:] * real) > 1e-2


def by_hand(backbone: Backbone, rows: Tensor, past) -> Tensor:
    """BERT written out for one whole row: attention over the prompt's keys and values and the row's own."""
    model = backbone.model.base_model
    at = torch.arange(rows.shape[1]) + past[0][0].shape[2] + backbone.limits.first_position
    embeddings = model.embeddings
    hidden = embeddings.LayerNorm(
        rows + embeddings.position_embeddings(at) + embeddings.token_type_embeddings.weight[0]
    )
    for layer, (keys, values) in zip(model.encoder.layer, past, strict=True):
        own = layer.attention.self
        query, key, value = (
            part(hidden)[0].view(rows.shape[1], 4, -1).transpose(0, 1) for part in (own.query, own.key, own.value)
        )
        key, value = torch.cat([keys[0], key], 1), torch.cat([values[0], value], 1)
        weights = torch.softmax(query @ key.transpose(1, 2) / key.shape[2] ** 0.5, dim=-1)
        attended = (weights @ value).transpose(0, 1).reshape(1, rows.shape[1], -1)
        out = layer.attention.output
        hidden = out.LayerNorm(out.dense(attended) + hidden)
        wide = torch.nn.functional.gelu(layer.intermediate.dense(hidden))
        hidden = layer.output.LayerNorm(layer.output.dense(wide) + hidden)
    return hidden


@pytest.mark.parametrize("family", DEEP)
def test_a_deep_prompt_is_what_the_equations_say_with_gradients(family):
    backbone = tiny_backbone(family)
    past, rows = deep(backbone, 5), rows_of(backbone, (9,))
    found = run(backbone, rows, torch.ones(1, 14, dtype=torch.long), past)
    wanted = by_hand(backbone, rows, past)
    assert off(found, wanted) < 1e-5
    leaves = [tensor for layer in past for tensor in layer]
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    slopes = [torch.autograd.grad((hidden * weights).sum(), leaves) for hidden in (found, wanted)]
    assert all(off(one, other) < 1e-4 and one.abs().max() > 1e-3 for one, other in zip(*slopes, strict=True))


@pytest.mark.parametrize("family", DEEP)
def test_deep_prompts_of_two_lengths_share_a_batch(family):
    backbone = tiny_backbone(family)
    long, short = deep(backbone, 9), deep(backbone, 4)
    rows = rows_of(backbone, (7, 12))
    both = [
        tuple(torch.cat([a, torch.nn.functional.pad(b, (0, 0, 5, 0))]) for a, b in zip(one, two, strict=True))
        for one, two in zip(long, short, strict=True)
    ]
    mask = torch.cat([(torch.arange(9) >= torch.tensor([[0], [5]])).long(), mask_of((7, 12))], 1)
    together = run(backbone, rows, mask, both)
    alone = run(backbone, rows[:1, :7], torch.ones(1, 16, dtype=torch.long), long)
    assert off(together[:1, :7], alone) < 1e-5
    assert off(together[1:], run(backbone, rows[1:], torch.ones(1, 16, dtype=torch.long), short)) < 1e-5


@pytest.mark.parametrize("family", NOT_DEEP)
def test_deep_prompts_that_transformers_ignores_are_refused_by_name(family):
    """The reason for the refusal is measured: the argument is taken, and changes nothing."""
    backbone, bert = tiny_backbone(family), tiny_backbone("bert")
    from softprompt.backbones.caches import cache_of

    rows, mask = rows_of(backbone, (6,)), torch.ones(1, 6, dtype=torch.long)
    cache = cache_of(deep(bert, 4), torch.float32)
    ignored = backbone.model.base_model(inputs_embeds=rows, attention_mask=mask, past_key_values=cache)
    assert torch.equal(ignored.last_hidden_state, run(backbone, rows, mask))
    title = backbone.family.title
    with pytest.raises(
        UnsupportedBackboneError, match=f"`tiny-{family}` .{title}, encoder. cannot take keys and values"
    ):
        run(backbone, rows, torch.ones(1, 10, dtype=torch.long), deep(bert, 4))
    with pytest.raises(
        UnsupportedBackboneError, match="cannot take keys and values: its layers take none from outside"
    ):
        backbone.key_values(rows, mask=mask, positions=positions_of(mask, 6))


@pytest.mark.parametrize("family", TINY_ENCODERS)
def test_a_prefix_run_on_its_own_is_refused(family):
    backbone = tiny_backbone(family)
    assert "shared-prefix" not in backbone.capabilities
    with pytest.raises(
        UnsupportedBackboneError, match=r"cannot take a prefix run on its own: its tokens see the whole"
    ):
        backbone.run(**_one(backbone), keep=True)


@pytest.mark.parametrize("family", [name for name in TINY_ENCODERS if name != "minilm"])
def test_words_are_the_models_own(family):
    backbone = tiny_backbone(family)
    rows, mask = rows_of(backbone), mask_of()
    assert backbone.head is not None
    with torch.no_grad():
        bias = backbone.head.bias()
        assert bias is not None
        assert bias.abs().max() > 0.05
        own = backbone.model(
            inputs_embeds=rows,
            attention_mask=mask,
            position_ids=positions_of(mask, rows.shape[1]) + backbone.limits.first_position,
        ).logits[:, 0]
    hidden = run(backbone, rows, mask)[:, 0]
    ids = torch.tensor([5, 299, 5, 17])
    torch.testing.assert_close(backbone.logits(hidden), own, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(backbone.logits(hidden, ids), own[:, ids], rtol=1e-5, atol=1e-5)
    parts = backbone.head.states(hidden) @ backbone.head.rows(ids).T + backbone.head.bias(ids)
    torch.testing.assert_close(parts, own[:, ids], rtol=1e-5, atol=1e-5)
    assert "mask-readout" in backbone.capabilities


def test_an_encoder_without_a_head_scores_no_words():
    backbone = tiny_backbone("minilm")
    assert (backbone.head, "mask-readout" in backbone.capabilities) == (None, False)
    with pytest.raises(
        UnsupportedBackboneError, match="`tiny-minilm` has no head that scores words, so it can be read"
    ):
        backbone.logits(torch.zeros(1, 48))


def test_an_encoder_does_not_encode_for_a_decoder():
    backbone = tiny_backbone("bert")
    with pytest.raises(UnsupportedBackboneError, match=r"`tiny-bert` .BERT. is no encoder-decoder and cannot encode"):
        backbone.encode(torch.zeros(1, 2, 48), mask=torch.ones(1, 2, dtype=torch.long))
    ids = torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(UnsupportedBackboneError, match="cannot decode: its rows are run"):
        backbone.decode(ids, torch.zeros(1, 2, 48), mask=torch.ones_like(ids))


def test_pooling():
    backbone = tiny_backbone("minilm")
    hidden = torch.arange(12.0).view(2, 3, 2).bfloat16()
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert backbone.pool(hidden, mask=mask).tolist() == [[1.0, 2.0], [8.0, 9.0]]
    assert backbone.pool(hidden, mask=mask, how="first").tolist() == [[0.0, 1.0], [6.0, 7.0]]
    assert backbone.pool(hidden, mask=mask).dtype == torch.float32


def test_pooling_of_another_name():
    from softprompt.backbones import bidirectional

    how = "mean "
    pool = getattr(bidirectional.pool, "__wrapped__", bidirectional.pool)
    with pytest.raises(UnknownNameError, match="unknown pooling `mean `; did you mean `mean`"):
        pool(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.long), how)

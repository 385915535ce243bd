"""Rows without their padding: the same states, keys and values as with it, in every family that runs so."""

import pytest
import torch

from softprompt.backbones import backbone as backbones
from softprompt.backbones.packing import Packing
from softprompt.backbones.unpadded import is_worth_packing, run_packed
from softprompt.testing.tiny import TINY_FAMILIES, WINDOW, tiny_backbone

PACKED = [
    name
    for name in TINY_FAMILIES
    if tiny_backbone(name).attention == "grouped" and tiny_backbone(name).position_switch is None
]
LENGTHS = (2, 3 * WINDOW, 1, 9)


def batch(backbone, slots):
    """Rows behind prefixes of different lengths, some of them longer than the window."""
    generator = torch.Generator().manual_seed(0)
    tokens = max(LENGTHS)
    columns = torch.arange(slots + tokens)
    starts = torch.tensor([0, slots // 2, slots, 1 if slots else 0])
    mask = (columns >= starts[:, None]) & (columns < slots + torch.tensor(LENGTHS)[:, None])
    embeddings = torch.randn(len(LENGTHS), slots + tokens, backbone.embedding_size, generator=generator)
    return backbone.embedding_rms * embeddings, mask.long(), (mask.long().cumsum(1) - 1).clamp(0)


@pytest.fixture
def packed(monkeypatch):
    """Notes of each pass whether it ran without padding."""
    passes = []

    def noted(*arguments, **settings):
        passes.append(arguments[1].shape[1])
        return run_packed(*arguments, **settings)

    monkeypatch.setattr(backbones, "run_packed", noted)
    return passes


@pytest.mark.parametrize("family", PACKED)
@pytest.mark.parametrize("slots", [0, WINDOW + 3])
@torch.no_grad()
def test_states_keys_and_values_are_those_of_padded_rows(family, slots, packed, monkeypatch):
    backbone = tiny_backbone(family)
    embeddings, mask, positions = batch(backbone, slots)
    past = None
    if slots:
        _, past = backbone.run(embeddings[:, :slots], mask=mask[:, :slots], positions=positions[:, :slots], keep=True)
    packed.clear()
    rows = {"mask": mask, "positions": positions[:, slots:], "past": past}
    found, kept = backbone.run(embeddings[:, slots:], **rows, keep=True)
    alone, nothing = backbone.run(embeddings[:, slots:], **rows)
    assert packed == [max(LENGTHS)] * 2
    assert nothing is None
    monkeypatch.setattr(backbones, "is_worth_packing", lambda *_: False)
    wanted, wanted_kept = backbone.run(embeddings[:, slots:], **rows, keep=True)
    assert len(packed) == 2
    real = mask.bool()
    for states in (found, alone):
        assert_near(states[real[:, slots:]], wanted[real[:, slots:]])
    for one, other in zip(kept, wanted_kept, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            assert mine.shape == theirs.shape
            assert_near(mine.transpose(1, 2)[real], theirs.transpose(1, 2)[real])


@torch.no_grad()
@pytest.mark.parametrize(("name", "value"), [("layer_types", None), ("sliding_window", 2)])
def test_a_config_may_leave_out_kinds_of_layers_or_speak_of_a_window_in_vain(name, value, packed, monkeypatch):
    backbone = tiny_backbone("llama")
    embeddings, mask, positions = batch(backbone, 0)
    monkeypatch.setattr(backbone.model.config, name, value, raising=False)
    found, _ = backbone.run(embeddings, mask=mask, positions=positions)
    assert packed
    monkeypatch.setattr(backbones, "is_worth_packing", lambda *_: False)
    wanted, _ = backbone.run(embeddings, mask=mask, positions=positions)
    assert_near(found[mask.bool()], wanted[mask.bool()])


@pytest.mark.parametrize("family", PACKED)
@torch.no_grad()
def test_no_layer_but_attention_sees_padding(family):
    backbone, seen = tiny_backbone(family), []
    embeddings, mask, positions = batch(backbone, 0)
    layer = next(module for module in backbone.model.base_model.modules() if isinstance(module, torch.nn.ModuleList))[0]
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[:2]))
    try:
        backbone.run(embeddings, mask=mask, positions=positions)
    finally:
        hook.remove()
    assert seen == [(1, sum(LENGTHS))]


def assert_near(found, wanted):
    assert float((found - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())


def slopes(backbone, slots):
    """Gradients of a sum over the real states, at the rows and at the keys and values in front of them."""
    embeddings, mask, positions = batch(backbone, slots)
    with torch.no_grad():
        prefix = {"mask": mask[:, :slots], "positions": positions[:, :slots], "keep": True}
        _, past = backbone.run(embeddings[:, :slots], **prefix)
    leaves = [each.requires_grad_() for layer in past for each in layer]
    rows = embeddings[:, slots:].requires_grad_()
    hidden, _ = backbone.run(rows, mask=mask, positions=positions[:, slots:], past=past)
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1)) * mask[:, slots:, None]
    rows_slope, *others = torch.autograd.grad((hidden * weights).sum(), [rows, *leaves])
    real = mask.bool()
    return [rows_slope[real[:, slots:]], *(each.transpose(1, 2)[real[:, :slots]] for each in others)]


@pytest.mark.parametrize("family", PACKED)
def test_gradients_are_those_of_padded_rows(family, packed, monkeypatch):
    backbone = tiny_backbone(family)
    found = slopes(backbone, WINDOW + 3)
    assert packed == [WINDOW + 3, max(LENGTHS)] or packed == [max(LENGTHS)]
    monkeypatch.setattr(backbones, "is_worth_packing", lambda *_: False)
    for mine, theirs in zip(found, slopes(backbone, WINDOW + 3), strict=True):
        assert_near(mine, theirs)


def test_rows_that_are_learned_from_always_go_without():
    mask = torch.ones(4, 10, dtype=torch.long)
    assert is_worth_packing(mask, 10)
    with torch.no_grad():
        assert not is_worth_packing(mask, 10)


@torch.no_grad()
def test_longrope_counts_the_longest_row_and_keeps_its_padding(packed):
    backbone = tiny_backbone("phi3_longrope")
    embeddings, mask, positions = batch(backbone, 0)
    backbone.run(embeddings, mask=mask, positions=positions)
    assert not packed


@torch.no_grad()
def test_what_little_padding_costs_is_less_than_laying_out():
    mask = torch.ones(4, 10, dtype=torch.long)
    assert not is_worth_packing(mask, 10)
    mask[0, 5:] = 0
    assert not is_worth_packing(mask, 10)
    assert is_worth_packing(mask, 5)
    mask[1, 5:] = 0
    assert is_worth_packing(mask, 10)


@torch.no_grad()
def test_a_row_without_numbers_leaves_its_padding_to_itself(packed):
    backbone = tiny_backbone("llama")
    embeddings, mask, positions = batch(backbone, 0)
    embeddings[0] = torch.nan
    found, kept = backbone.run(embeddings, mask=mask, positions=positions, keep=True)
    assert packed
    assert bool(found[0].isnan().all())
    assert all(bool(each.isfinite().all()) for each in (found[1:], *(values[1:] for _, values in kept)))


def test_packing_undoes_itself():
    real = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1]])
    packing = Packing.of(real)
    rows = torch.arange(24.0).view(3, 4, 2)
    packed = packing.pack(rows)
    assert packed.shape == (1, 7, 2)
    assert torch.equal(packing.rows(packed)[real.bool()], rows[real.bool()])
    heads = rows.view(3, 4, 2, 1).transpose(1, 2)
    across = packed.view(1, 7, 2, 1).transpose(1, 2)
    assert torch.equal(packing.heads(across).transpose(1, 2)[real.bool()], heads.transpose(1, 2)[real.bool()])


def test_padding_repeats_a_token_of_its_own_row():
    assert Packing.of(torch.tensor([[0, 1, 0], [1, 1, 0]])).tokens.tolist() == [[0, 0, 0], [1, 2, 2]]
    assert Packing.of(torch.tensor([[1, 0], [0, 0]])).tokens.tolist() == [[0, 0], [0, 0]]

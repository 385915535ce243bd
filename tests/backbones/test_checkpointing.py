"""Layers that are run again in the backward pass: the same gradients, less memory, and the cache is kept."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from softprompt.backbones.caches import DecoderPast, cache_of, kept_in
from softprompt.backbones.checkpointing import checkpointed
from softprompt.errors import UnsupportedBackboneError
from softprompt.testing.tiny import SPECIAL_FAMILIES, TINY_ENCODERS, TINY_FAMILIES, TINY_SEQ2SEQ, tiny_backbone

ROWS, PREFIX, ROW = 3, 10, 6


class Peak(TorchDispatchMode):
    """The most bytes of tensors made in the block that are alive at once."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self._known = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return out

    def _see(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key, size):
        self._known.discard(key)
        self.now -= size


def scattered(hidden):
    """A loss that every number of the hidden states has a part in."""
    return (hidden * torch.sin(torch.arange(hidden.numel()).view_as(hidden))).sum()


def start(backbone, *shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, backbone.embedding_size, generator=generator).requires_grad_()


def behind_a_prefix(backbone, count=ROWS, length=ROW):
    """Hidden states of rows behind a prefix that was run before, and the prefix's gradient through its cache."""
    prefix, rows = start(backbone, 1, PREFIX), start(backbone, count, length)
    ones = torch.ones(count, PREFIX + length, dtype=torch.long)
    positions = torch.arange(PREFIX + length).expand(count, -1)
    _, kept = backbone.run(prefix, mask=ones[:1, :PREFIX], positions=positions[:1, :PREFIX], keep=True)
    past = [(k.expand(count, -1, -1, -1), v.expand(count, -1, -1, -1)) for k, v in kept]
    assert {k.shape[2] for k, _ in past} == {PREFIX}
    hidden, _ = backbone.run(rows, mask=ones, positions=positions[:, PREFIX:], past=past)
    scattered(hidden).backward()
    return hidden.detach(), prefix.grad, rows.grad


def whole_rows(backbone):
    rows = start(backbone, ROWS, ROW)
    ones = torch.ones(ROWS, ROW, dtype=torch.long)
    if backbone.kind == "encoder-decoder":
        states = backbone.encode(rows, mask=ones)
        ids = torch.tensor([[*backbone.answer_start, 5, 6]]).expand(ROWS, -1)
        hidden, _ = backbone.decode(ids, states, mask=ones)
    else:
        hidden, _ = backbone.run(rows, mask=ones, positions=torch.arange(ROW).expand(ROWS, -1))
    scattered(hidden).backward()
    return hidden.detach(), rows.grad


def same(backbone, work):
    plain = work(backbone)
    with checkpointed(backbone):
        again = work(backbone)
    assert plain[1].abs().max() > 0
    for found, expected in zip(again, plain, strict=True):
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    after = work(backbone)
    assert all(torch.equal(found, expected) for found, expected in zip(after, plain, strict=True))
    assert not any(module.training for module in backbone.model.modules())


@pytest.mark.parametrize("family", [*TINY_FAMILIES, *SPECIAL_FAMILIES])
def test_gradients_through_a_cache_are_the_same(family):
    same(tiny_backbone(family), behind_a_prefix)


@pytest.mark.parametrize("family", [*TINY_ENCODERS, *TINY_SEQ2SEQ])
def test_gradients_of_whole_rows_are_the_same(family):
    same(tiny_backbone(family), whole_rows)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_gradients_to_a_deep_prompt_of_an_encoder_are_the_same(family):
    def work(backbone):
        some = start(backbone, 1, 2 * PREFIX).detach().view(1, 4, -1, backbone.embedding_size // 4)
        leaves = [(some[:, :, :PREFIX].clone().requires_grad_(), some[:, :, PREFIX:].clone().requires_grad_())
                  for _ in range(backbone.num_layers)]  # fmt: skip
        past = [(k.expand(ROWS, -1, -1, -1), v.expand(ROWS, -1, -1, -1)) for k, v in leaves]
        mask = torch.ones(ROWS, PREFIX + ROW, dtype=torch.long)
        positions = torch.arange(PREFIX, PREFIX + ROW).expand(ROWS, -1)
        hidden, _ = backbone.run(start(backbone, ROWS, ROW).detach(), mask=mask, positions=positions, past=past)
        scattered(hidden).backward()
        return hidden.detach(), *(leaf.grad for pair in leaves for leaf in pair)

    same(tiny_backbone(family), work)


@pytest.mark.parametrize("family", TINY_SEQ2SEQ)
def test_gradients_to_a_deep_prompt_of_a_decoder_are_the_same(family):
    def work(backbone):
        mask = torch.ones(ROWS, ROW, dtype=torch.long)
        rows = start(backbone, ROWS, ROW)
        ids = torch.tensor([[*backbone.answer_start, 5, 6]]).expand(ROWS, -1)
        states = backbone.encode(rows, mask=mask)
        with torch.no_grad():
            _, kept = backbone.decode(ids, states, mask=mask, keep=True)
        leaves = [(k.clone().requires_grad_(), v.clone().requires_grad_()) for k, v in kept.own]
        hidden, on = backbone.decode(ids, states, mask=mask, past=DecoderPast(leaves), keep=True)
        further, _ = backbone.decode(ids[:, -1:], states, mask=mask, past=on)
        scattered(torch.cat([hidden, further], 1)).backward()
        return hidden.detach(), rows.grad, *(leaf.grad for pair in leaves for leaf in pair)

    same(tiny_backbone(family), work)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_dropout_stays_off(family):
    """Some layers drop out by their own hand where they are in training mode."""
    settings = {"dropout": 0.9} if family == "opt" else {"attention_dropout": 0.9}
    same(tiny_backbone(family, **settings), behind_a_prefix)


def test_less_memory_is_taken():
    backbone = tiny_backbone("llama", num_hidden_layers=12)

    def peak():
        with Peak() as meter:
            behind_a_prefix(backbone, count=8, length=40)
        return meter.most

    plain = peak()
    with checkpointed(backbone):
        assert peak() < 0.4 * plain


def test_a_cache_is_written_once():
    keys, more = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 1, 4)
    cache = cache_of([(keys, keys)], torch.float32)
    first, again = (cache.update(more, more, 0)[0] for _ in range(2))
    assert torch.equal(first, again)
    assert kept_in(cache)[0][0].shape[2] == 4
    unkept = cache_of([(keys, keys)], torch.float32, keep=False)
    assert torch.equal(unkept.update(more, more, 0)[0], first)
    assert kept_in(unkept)[0][0] is keys


def test_layers_without_the_switch_are_refused_by_name(monkeypatch):
    backbone = tiny_backbone("llama")
    monkeypatch.setattr(backbone, "model", torch.nn.Linear(2, 2))
    refused = pytest.raises(
        UnsupportedBackboneError, match=r"`tiny-llama` \(Llama\) cannot be run again in the backward"
    )
    with refused, checkpointed(backbone):
        pass

"""One pass of the frozen backbone over a batch of rows, each behind its own prompt's shared prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from softprompt.backbones.backbone import Backbone, Growing, KeyValues
from softprompt.modeling.bound import BoundPrompt, Prefix
from softprompt.modeling.encoded import Source, decode
from softprompt.modeling.layout import Layout, compact, contiguous, stack_left
from softprompt.shapes import Float, Int


class Batch(NamedTuple):
    """Rows to run together.

    Attributes:
        bounds: the distinct prompts, N of them.
        prefixes: their shared prefixes, in the same order.
        owner: which prompt each row belongs to.
        ids: the tokens of each row; virtual token k is -1-k.
        far: the rows lie beyond the backbone's `position_switch` (all of them or none).
        answers: of an encoder-decoder: the tokens of each row that its decoder runs, the answer's start first.
    """

    bounds: Sequence[BoundPrompt]
    prefixes: Sequence[Prefix]
    owner: Sequence[int]
    ids: Sequence[Sequence[int]]
    far: bool = False
    answers: Sequence[Sequence[int]] = ()


class Pass(NamedTuple):
    """What a pass leaves: hidden states of the row columns, and what is needed to go on from there.

    Of an encoder-decoder these are the decoder's columns, and `source` is what its decoder reads.
    """

    hidden: Float[Tensor, "B T D"]
    past: KeyValues | None
    mask: Int[Tensor, "B S+T"]
    source: Source | None = None

    def rows(self, index: Int[Tensor, " M"]) -> Pass:
        """Return what some rows need to go on."""
        past = None if self.past is None else [(k[index], v[index]) for k, v in self.past]
        source = None if self.source is None else self.source.rows(index)
        return Pass(self.hidden[index], past, self.mask[index], source)


def run_rows(backbone: Backbone, batch: Batch, *, keep: bool = False) -> Pass:
    """Run the rows of a batch, each behind its prefix; `keep` returns keys and values to go on from."""
    owner = torch.tensor(batch.owner, device=backbone.device)
    ids, lengths = _padded(backbone, batch.ids)
    embeddings = _embed(backbone, ids, batch.bounds, owner)
    prefix_lengths = torch.tensor([p.length for p in batch.prefixes], device=backbone.device)[owner]
    if batch.answers:
        real = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()
        source = Source(backbone.encode(embeddings, mask=real), real)
        return _run_answers(backbone, batch, source, prefix_lengths, owner, keep=keep)
    layout = contiguous(prefix_lengths, lengths, ids.shape[1])
    if backbone.kind == "encoder":
        layout = _as_written(layout, batch.bounds, prefix_lengths, owner)
    hidden, past = run_laid_out(backbone, embeddings, layout, _past(batch.prefixes, owner), keep=keep, far=batch.far)
    return Pass(hidden, past, layout.mask)


def _padded(backbone: Backbone, rows: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "B T"], Int[Tensor, " B"]]:
    """Tokens padded on the right, and how many are real."""
    lengths = torch.tensor([len(row) for row in rows], device=backbone.device)
    ids = torch.full((len(rows), int(lengths.max())), backbone.pad, device=backbone.device)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, device=backbone.device)
    return ids, lengths


def _as_written(
    layout: Layout, bounds: Sequence[BoundPrompt], slots: Int[Tensor, " B"], owner: Int[Tensor, " B"]
) -> Layout:
    """Count an encoder's positions as the template is written: the words in front of keys and values come first.

    Every column sees every other, so that only positions tell where the prompt stands.
    """
    before = [0 if bound.layers is None else len(bound.split[0]) for bound in bounds]
    ahead = torch.arange(layout.positions.shape[1], device=owner.device) < torch.tensor(before, device=owner.device)[
        owner
    ].unsqueeze(1)
    return Layout(layout.mask, layout.positions - slots[:, None] * ahead)


def _run_answers(
    backbone: Backbone,
    batch: Batch,
    source: Source,
    prefix_lengths: Int[Tensor, " B"],
    owner: Int[Tensor, " B"],
    *,
    keep: bool,
) -> Pass:
    """Decode what rows are answered with, behind the keys and values of their prompts if there are some."""
    ids, lengths = _padded(backbone, batch.answers)
    mask = contiguous(prefix_lengths, lengths, ids.shape[1]).mask
    before = mask[:, : mask.shape[1] - ids.shape[1]]
    hidden, past, source = decode(backbone, ids, source, _past(batch.prefixes, owner), before, keep=keep)
    return Pass(hidden, past, mask, source)


def compacted(done: Pass) -> Pass:
    """Return a pass whose rows end together, so that the next token of each stands right behind its last."""
    assert done.past is not None, "the pass did not keep its keys and values"
    past, mask = compact(done.past, done.mask)
    return done._replace(past=past, mask=mask)


def run_on(
    backbone: Backbone, done: Pass, paths: Sequence[Sequence[int]], *, far: bool = False
) -> Float[Tensor, "Q B T D"]:
    """Go on from the rows of a pass with each of Q token sequences: hidden states behind every row.

    The cache is compacted once, so that the new tokens stand right behind each row's last.
    """
    _, past, mask, source = compacted(done)
    assert past is not None, "a compacted pass has keys and values"
    count, rows = len(paths), mask.shape[0]
    ids, lengths = _padded(backbone, paths)
    ids = ids.repeat_interleave(rows, dim=0)  # [Q*B, T]: every row with the first path, then every row with the second
    repeated = [(k.repeat(count, 1, 1, 1), v.repeat(count, 1, 1, 1)) for k, v in past]
    if source is not None:
        found, _, _ = decode(backbone, ids, source.repeat(count), repeated, mask.repeat(count, 1), keep=False)
        return found.reshape(count, rows, *found.shape[1:])
    lengths = lengths.repeat_interleave(rows)
    after = torch.arange(ids.shape[1], device=mask.device)[None] < lengths[:, None]
    whole = torch.cat([mask.repeat(count, 1), after.long()], dim=1)
    positions = (whole.cumsum(1) - 1).clamp(min=0)[:, mask.shape[1] :]
    hidden, _ = run_laid_out(backbone, backbone.embed(ids), Layout(whole, positions), repeated, keep=False, far=far)
    return hidden.reshape(count, rows, *hidden.shape[1:])


def _past(prefixes: Sequence[Prefix], owner: Int[Tensor, " B"]) -> KeyValues | None:
    """Keys and values of each row's prefix; an empty prefix is zero columns wide, or masked among longer ones."""
    some = next((p.past for p in prefixes if p.past is not None), None)
    if some is None:
        return None
    nothing = [(k[:, :, :0], v[:, :, :0]) for k, v in some]
    return stack_left([p.past or nothing for p in prefixes], owner)


def _embed(
    backbone: Backbone, ids: Int[Tensor, "B T"], bounds: Sequence[BoundPrompt], owner: Int[Tensor, " B"]
) -> Tensor:
    """Embed token ids; the marker -1-k becomes virtual token k of the row's own prompt. [B, T] -> [B, T, D]."""
    embeddings = backbone.embed(ids.clamp(min=0))
    where = (ids < 0).nonzero(as_tuple=True)
    if not where[0].numel():
        return embeddings
    tables = [bound.virtual_tokens if bound.virtual_tokens is not None else embeddings[0, :0] for bound in bounds]
    starts = torch.tensor([sum(map(len, tables[:i])) for i in range(len(tables))], device=ids.device)
    table = torch.cat([rows.to(embeddings.device, embeddings.dtype) for rows in tables])
    return embeddings.index_put(where, table[starts[owner[where[0]]] - 1 - ids[where]])


def embed_prefix(backbone: Backbone, bound: BoundPrompt) -> Float[Tensor, "1 S D"]:
    """Return everything before the first field of a prompt of rows, embedded."""
    ids, _ = _padded(backbone, [bound.template.prefix])
    return _embed(backbone, ids, [bound], torch.zeros(1, dtype=torch.long, device=backbone.device))


def run_laid_out(
    backbone: Backbone, embeddings: Tensor, layout: Layout, past: KeyValues | Growing | None, *, keep: bool, far: bool
) -> tuple[Tensor, KeyValues | None]:
    """Run the backbone; beyond its `position_switch` a masked last column makes it choose the far rotary factors.

    Such a backbone (longrope) chooses by the largest position of the whole batch, which must not depend on
    what else is in it.
    """
    if not far:
        return backbone.run(embeddings, mask=layout.mask, positions=layout.positions, past=past, keep=keep)
    assert backbone.position_switch is not None
    hidden, kept = backbone.run(
        pad(embeddings, (0, 0, 0, 1)),
        mask=pad(layout.mask, (0, 1)),
        positions=pad(layout.positions, (0, 1), value=backbone.position_switch),
        past=past,
        keep=keep,
    )
    return hidden[:, :-1], [(k[:, :, :-1], v[:, :, :-1]) for k, v in kept] if kept else None

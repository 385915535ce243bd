"""One pass of the frozen backbone over a batch of rows, each behind its own prompt's shared prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from softprompt.backbones.backbone import Backbone, KeyValues
from softprompt.modeling.bound import BoundPrompt, Prefix
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
    """

    bounds: Sequence[BoundPrompt]
    prefixes: Sequence[Prefix]
    owner: Sequence[int]
    ids: Sequence[Sequence[int]]
    far: bool = False


class Pass(NamedTuple):
    """What a pass leaves: hidden states of the row columns, and what is needed to go on from there."""

    hidden: Float[Tensor, "B T D"]
    past: KeyValues | None
    mask: Int[Tensor, "B S+T"]


def run_prefixes(backbone: Backbone, bounds: Sequence[BoundPrompt], *, far: bool = False) -> list[Prefix]:
    """Run everything before the first field, once a prompt and all prompts together.

    Gradients reach virtual tokens through the keys and values of their slots; a prompt that is keys and values puts
    them there as they are, and only the words behind them are run.
    """
    heads = [_head(backbone, bound, far) for bound in bounds]
    rests = [bound.template.prefix if bound.layers is None else bound.split[1] for bound in bounds]
    running = [i for i, rest in enumerate(rests) if rest]
    if running:
        batch = Batch(
            [bounds[i] for i in running],
            [heads[i] for i in running],
            range(len(running)),
            [rests[i] for i in running],
            far,
        )
        done = run_rows(backbone, batch, keep=True)
        for i, prefix in zip(running, _apart(done), strict=True):
            assert prefix.length == heads[i].length + len(rests[i]), "the backbone did not keep the whole prefix"
            heads[i] = prefix
    return heads


def _head(backbone: Backbone, bound: BoundPrompt, far: bool) -> Prefix:
    """What stands in front of the words to run: nothing, or a prompt's own keys and values behind its first words."""
    if bound.layers is None:
        return Prefix(None, 0)
    words = bound.split[0]
    length = len(words) + bound.layers[0][0].shape[2]
    own = [(k.to(backbone.dtype), v.to(backbone.dtype)) for k, v in bound.layers]
    if not words:
        return Prefix(own, length)
    with torch.no_grad():  # nothing in front of the prompt learns
        before = run_rows(backbone, Batch([bound], [Prefix(None, 0)], [0], [words], far), keep=True).past
    assert before is not None, "keep=True returns keys and values"
    joined = [(torch.cat([k0, k], 2), torch.cat([v0, v], 2)) for (k0, v0), (k, v) in zip(before, own, strict=True)]
    return Prefix(joined, length)


def _apart(done: Pass) -> list[Prefix]:
    """The keys and values of each row of a pass by itself, its padding taken off."""
    assert done.past is not None, "the pass kept its keys and values"
    out = []
    for row, mask in enumerate(done.mask):
        real = mask.nonzero()[:, 0]
        start, stop = int(real[0]), int(real[-1]) + 1
        out.append(
            Prefix(
                [(k[row : row + 1, :, start:stop], v[row : row + 1, :, start:stop]) for k, v in done.past], stop - start
            )
        )
    return out


def run_rows(backbone: Backbone, batch: Batch, *, keep: bool = False) -> Pass:
    """Run the rows of a batch, each behind its prefix; `keep` returns keys and values to go on from."""
    device = backbone.device
    owner = torch.tensor(batch.owner, device=device)
    lengths = torch.tensor([len(row) for row in batch.ids], device=device)
    ids = torch.full((len(batch.ids), int(lengths.max())), backbone.pad, device=device)
    for i, row in enumerate(batch.ids):
        ids[i, : len(row)] = torch.tensor(row, device=device)
    prefix_lengths = torch.tensor([p.length for p in batch.prefixes], device=device)[owner]
    layout = contiguous(prefix_lengths, lengths, ids.shape[1])
    embeddings = _embed(backbone, ids, batch.bounds, owner)
    hidden, past = run_laid_out(backbone, embeddings, layout, _past(batch.prefixes, owner), keep=keep, far=batch.far)
    return Pass(hidden, past, layout.mask)


def run_on(
    backbone: Backbone, done: Pass, paths: Sequence[Sequence[int]], *, far: bool = False
) -> Float[Tensor, "Q B T D"]:
    """Go on from the rows of a pass with each of Q token sequences: hidden states behind every row.

    The cache is compacted once, so that the new tokens stand right behind each row's last.
    """
    assert done.past is not None, "the pass did not keep its keys and values"
    past, mask = compact(done.past, done.mask)
    count, rows = len(paths), mask.shape[0]
    ids = torch.full((count, max(map(len, paths))), backbone.pad, device=mask.device)
    for i, path in enumerate(paths):
        ids[i, : len(path)] = torch.tensor(path, device=mask.device)
    ids = ids.repeat_interleave(rows, dim=0)  # [Q*B, T]: every row with the first path, then every row with the second
    lengths = torch.tensor([len(path) for path in paths], device=mask.device).repeat_interleave(rows)
    after = torch.arange(ids.shape[1], device=mask.device)[None] < lengths[:, None]
    whole = torch.cat([mask.repeat(count, 1), after.long()], dim=1)
    positions = (whole.cumsum(1) - 1).clamp(min=0)[:, mask.shape[1] :]
    repeated = [(k.repeat(count, 1, 1, 1), v.repeat(count, 1, 1, 1)) for k, v in past]
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


def run_laid_out(
    backbone: Backbone, embeddings: Tensor, layout: Layout, past: KeyValues | None, *, keep: bool, far: bool
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

"""Where the tokens of a batch stand: `[left pad][shared prefix][row][right pad]`, nothing in between.

In every row all real slots are adjacent. A hole between prefix and row would be silently wrong wherever
attention has a window, and wherever positions are counted from the mask.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from softprompt.backbones.backbone import KeyValues
from softprompt.shapes import Int


class Layout(NamedTuple):
    """Mask over prefix and row columns, and the positions of the row columns."""

    mask: Int[Tensor, "B S+T"]
    positions: Int[Tensor, "B T"]


def contiguous(prefix: Int[Tensor, " B"], row: Int[Tensor, " B"], tokens: int) -> Layout:
    """Lay rows of length `row` (of `tokens` columns) right behind prefixes of length `prefix`, which end together.

    Pads repeat the last real position, so that no table of positions is overrun.
    """
    slots = int(prefix.max())
    columns = torch.arange(slots + tokens, device=prefix.device)
    mask = (columns >= slots - prefix[:, None]) & (columns < slots + row[:, None])
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    return Layout(mask.long(), positions[:, slots:])


def compact(past: KeyValues, mask: Int[Tensor, "B S"]) -> tuple[KeyValues, Int[Tensor, "B S"]]:
    """Rotate each row's keys, values and mask to the right by its right padding, so that the next token is adjacent.

    Keys carry their rotary phase already, so moving them changes nothing but the column.
    """
    slots = mask.shape[1]
    right_pad = mask.flip(1).argmax(1)  # [B]: columns behind the last real one
    source = (torch.arange(slots, device=mask.device)[None] - right_pad[:, None]) % slots  # [B, S]
    index = source[:, None, :, None]
    turned = [
        (keys.gather(2, index.expand_as(keys)), values.gather(2, index.expand_as(values))) for keys, values in past
    ]
    return turned, mask.gather(1, source)


def stack_left(prefixes: Sequence[KeyValues], rows: Int[Tensor, " B"]) -> KeyValues:
    """Give every row of a batch the keys and values of its own prefix, [1, H, S, K] each, padded on the left.

    One prefix for all is expanded without a copy.
    """
    if len(prefixes) == 1:
        count = rows.shape[0]
        return [(k.expand(count, -1, -1, -1), v.expand(count, -1, -1, -1)) for k, v in prefixes[0]]
    slots = max(prefix[0][0].shape[2] for prefix in prefixes)
    return [
        (_stack([p[layer][0] for p in prefixes], slots)[rows], _stack([p[layer][1] for p in prefixes], slots)[rows])
        for layer in range(len(prefixes[0]))
    ]


def _stack(tensors: Sequence[Tensor], slots: int) -> Tensor:
    return torch.cat([pad(t, (0, 0, slots - t.shape[2], 0)) for t in tensors])


def by_length(lengths: Sequence[int], max_rows: int, max_tokens: int) -> list[list[int]]:
    """Cut the indices of rows into batches of like length, longest first, within a budget of padded tokens.

    Longest first, so that a batch too large for the memory fails at once and not at the end.
    """
    batches: list[list[int]] = []
    room = 0
    for index in longest_first(lengths):
        width = max(1, lengths[index])
        if not batches or len(batches[-1]) == room:
            room = max(1, min(max_rows, max_tokens // width))
            batches.append([])
        batches[-1].append(index)
    return batches


def least_work(lengths: Sequence[int], max_tokens: int, pass_cost: int) -> list[list[int]]:
    """Cut the indices of rows as `by_length` does, and also where the padding that is spared is worth a pass.

    Of all ways to cut them where lengths change or a batch is full, the one with the least padded tokens in all, passes
    counted as tokens.

    >>> least_work([9, 2, 2, 2], 100, pass_cost=4), least_work([9, 2, 2, 2], 100, pass_cost=40)
    ([[0], [1, 2, 3]], [[0, 1, 2, 3]])

    Args:
        lengths: of the rows, in tokens.
        max_tokens: of a batch at most, padding counted; a row that is longer is a batch by itself.
        pass_cost: tokens that take as long as a pass takes beside its tokens; 0: padding takes nothing.
    """
    if not pass_cost:
        return by_length(lengths, len(lengths), max_tokens)
    order = longest_first(lengths)
    count = len(order)
    changes = [at for at in range(1, count) if lengths[order[at]] != lengths[order[at - 1]]]
    work, cuts = [0] * (count + 1), [count] * (count + 1)  # of the rows from each place on; where they are cut first
    for start in reversed(range(count)):
        width = max(1, lengths[order[start]])
        full = min(count, start + max(1, max_tokens // width))
        ends = [*changes[bisect_right(changes, start) : bisect_left(changes, full)], full]
        work[start], cuts[start] = min((pass_cost + width * (end - start) + work[end], end) for end in ends)
    batches, start = [], 0
    while start < len(order):
        batches.append(order[start : cuts[start]])
        start = cuts[start]
    return batches


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Return the indices of rows, the longest first, equal ones in order."""
    return sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))

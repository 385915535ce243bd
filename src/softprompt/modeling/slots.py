"""Rows of columns that grow: `[left pad][a row's own columns][room]`, in tensors that are seldom made anew.

All rows end in the same column, and what comes next is written behind it for all of them at once. A row that comes is
copied in once; the place of one that leaves is taken by the last row. Columns in front of the longest row belong to
nobody: they are not seen, and left behind when the tensors are next made anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from softprompt.shapes import Int

_ROOM = 64
"""Columns of room that are made at a time: rows are copied once for so many tokens."""


class Slots:
    """The columns of some rows in several tensors, such as the keys and the values of all layers.

    Args:
        grows: rows get columns of their own behind those that they came with.

    Attributes:
        lengths: how many columns of each row are its own.
        end: the column behind the last of every row.
    """

    def __init__(self, *, grows: bool = True) -> None:
        self.lengths: list[int] = []
        self.end = 0
        self._room = _ROOM if grows else 0
        self._tensors: list[Tensor] = []

    @property
    def width(self) -> int:
        """S, the columns of the longest row."""
        return max(self.lengths, default=0)

    @property
    def start(self) -> int:
        """The first column of the longest row."""
        return self.end - self.width

    @property
    def rows(self) -> list[Tensor]:
        """All columns of the rows, room included, [B, H, C, K] each: views."""
        return [tensor[: len(self.lengths)] for tensor in self._tensors]

    @property
    def columns(self) -> list[Tensor]:
        """The columns of the rows, [B, H, S, K] each: views."""
        return [tensor[:, :, self.start : self.end] for tensor in self.rows]

    def mask(self, device: torch.device) -> Int[Tensor, "B S"]:
        """Return 1 where a column is a row's own."""
        lengths = torch.tensor(self.lengths, device=device)
        return (torch.arange(self.width, device=device) >= self.width - lengths[:, None]).long()

    def add(self, found: Sequence[Tensor], rows: Sequence[tuple[int, int, int]]) -> None:
        """Copy in rows of other tensors.

        Args:
            found: as many tensors as ever, [_, H, _, K] each.
            rows: of each its number there, its first own column, and how many are its own.
        """
        if not self._tensors:
            self._tensors = [each.new_zeros(0, each.shape[1], 0, each.shape[3]) for each in found]
        count = len(self.lengths)
        self._fit(count + len(rows), max(self.width, *(length for _, _, length in rows)), 0)
        for at, (row, first, length) in enumerate(rows, start=count):
            for own, each in zip(self._tensors, found, strict=True):
                own[at, :, : self.end - length] = 0  # another row's columns are not seen, but NaN times 0 is NaN
                own[at, :, self.end - length : self.end] = each[row, :, first : first + length]
            self.lengths.append(length)

    def drop(self, row: int) -> None:
        """Let a row go; the last one takes its place."""
        last, length = len(self.lengths) - 1, self.lengths[-1]
        if row != last:
            for own in self._tensors:
                own[row, :, : self.end - length] = 0
                own[row, :, self.end - length : self.end] = own[last, :, self.end - length : self.end]
        self.lengths[row] = length
        self.lengths.pop()
        if not self.lengths:
            self._tensors, self.end = [], 0

    def reserve(self, columns: int) -> None:
        """Make sure that there is room for so many columns behind the last."""
        self._fit(len(self.lengths), self.width, columns)

    def advance(self) -> None:
        """Count the column behind the last as every row's own: it has been written."""
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def _fit(self, rows: int, width: int, columns: int) -> None:
        """Make the tensors anew where they are too small; zeros, for what is not seen must still be finite."""
        places, _, slots, _ = self._tensors[0].shape
        if rows <= places and width <= self.end and self.end + columns <= slots:
            return
        count, start, end = len(self.lengths), self.start, self.end
        places = rows if rows <= places else max(rows, places + places // 2)
        for number, own in enumerate(self._tensors):
            anew = own.new_zeros(places, own.shape[1], width + max(self._room, columns), own.shape[3])
            anew[:count, :, width - (end - start) : width] = own[:count, :, start:end]
            self._tensors[number] = anew
        self.end = width

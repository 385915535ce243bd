"""The order in which rows are seen: shuffled anew each epoch, the same for the same seed.

Rows of like length are not put together. Length often goes with the label (spam is long): batches by length would hold
one label after the other, and the steps would follow that. Padding is spared where rows are run, not here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


class BatchOrder:
    """Batches of rows by step number; a pure function of the seed, so that a resumed run sees what it would have.

    Batches differ by one row at most: the few rows that would be left over would make a whole step of their own.

    >>> order = BatchOrder(25, 24, seed=0)
    >>> order.batches_per_epoch, len(order.at(0)), len(order.at(1)), sorted(order.at(0) + order.at(1)) == [*range(25)]
    (2, 12, 13, True)

    Args:
        rows: how many rows there are, N.
        batch_size: rows a batch at most.
        seed: of the permutations.
    """

    def __init__(self, rows: int, batch_size: int, seed: int) -> None:
        self._rows, self._size, self._seed = rows, min(batch_size, rows), seed
        self._epoch, self._order = -1, [0]

    @property
    def batches_per_epoch(self) -> int:
        """How many steps it takes to see every row once."""
        return -(-self._rows // self._size)

    def at(self, step: int) -> list[int]:
        """Return the numbers of the rows of a step, counted from 0."""
        epoch, batch = divmod(step, self.batches_per_epoch)
        if self._epoch != epoch:
            self._epoch, self._order = epoch, _permutation(self._rows, self._seed, epoch)
        return self._order[self._before(batch) : self._before(batch + 1)]

    def rows(self, steps: int) -> int:
        """Return how many rows that many steps learn from, each time counted."""
        epochs, batches = divmod(steps, self.batches_per_epoch)
        return epochs * self._rows + self._before(batches)

    def _before(self, batch: int) -> int:
        """Rows of an epoch before a batch."""
        return batch * self._rows // self.batches_per_epoch


class TokenOrder:
    """Batches of about so many tokens by step number: many short rows or a few long ones, about the same work each.

    An epoch's last rows share a batch with the next epoch's first, as few rows make no step of their own here either.
    A pure function of the seed, as `BatchOrder` is. Where a batch begins depends on the rows before it, so a run that
    is resumed measures again those that it has passed.

    >>> order = TokenOrder(6, 10, 0, lambda row: 5)
    >>> [len(order.at(step)) for step in range(3)]
    [2, 2, 2]

    Args:
        rows: how many rows there are, N.
        tokens: in a batch at most; a row that is longer is a batch by itself. A batch has no more than N rows.
        seed: of the permutations.
        length: gives the tokens of row i.
    """

    def __init__(self, rows: int, tokens: int, seed: int, length: Callable[[int], int]) -> None:
        self._rows, self._tokens, self._seed, self._length = rows, tokens, seed, length
        self._rewind()

    def at(self, step: int) -> list[int]:
        """Return the numbers of the rows of a step, counted from 0."""
        if step < self._step:
            self._rewind()
        while self._step < step:
            self._next()
        return self._batch

    def _rewind(self) -> None:
        self._epoch, self._step, self._batch = -1, -1, [0]
        self._left: list[int] = []

    def _next(self) -> None:
        batch: list[int] = []
        tokens = 0
        while len(batch) < self._rows:
            if not self._left:
                self._epoch += 1
                self._left = _permutation(self._rows, self._seed, self._epoch)[::-1]
            tokens += self._length(self._left[-1])
            if tokens > self._tokens and batch:
                break
            batch.append(self._left.pop())
        self._batch, self._step = batch, self._step + 1


def _permutation(rows: int, seed: int, epoch: int) -> list[int]:
    order = list(range(rows))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def sample(rows: Sequence[T], most: int, seed: int) -> Sequence[T]:
    """Return at most `most` rows, drawn by `seed` and kept in order.

    >>> sample([1, 2, 3, 4], 2, seed=0) == sample([1, 2, 3, 4], 2, seed=0)
    True
    """
    if len(rows) <= most:
        return rows
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), most))]

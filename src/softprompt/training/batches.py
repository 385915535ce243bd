"""The order in which rows are seen: shuffled, in buckets of like length, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

POOL = 16
"""Batches that are sorted by length together: enough to spare most padding, few enough to stay random."""


T = TypeVar("T")


class BatchOrder(Generic[T]):
    """Batches of rows by step number; a pure function of the seed, so that a resumed run sees what it would have.

    Each epoch is a fresh permutation, cut into pools of sixteen batches; a pool is sorted by length, cut into
    batches and shuffled again. Rows are encoded when their pool is reached, so a large set costs no start-up.

    Args:
        rows: how many rows there are, N.
        batch_size: rows a batch (the last batch of an epoch may be smaller).
        seed: of the permutations.
        encode: gives row i.
        length: gives the length of an encoded row.
    """

    def __init__(
        self, rows: int, batch_size: int, seed: int, encode: Callable[[int], T], length: Callable[[T], int]
    ) -> None:
        self._rows, self._size, self._seed = rows, min(batch_size, rows), seed
        self._encode, self._length = encode, length
        self._pool_at: tuple[int, int] | None = None
        self._pool: list[list[tuple[int, T]]] = []

    @property
    def batches_per_epoch(self) -> int:
        """How many steps it takes to see every row once."""
        return -(-self._rows // self._size)

    def at(self, step: int) -> list[tuple[int, T]]:
        """Return the batch of a step (counted from 0): pairs of row number and encoded row."""
        epoch, batch = divmod(step, self.batches_per_epoch)
        pool, place = divmod(batch, POOL)
        if self._pool_at != (epoch, pool):
            self._pool_at, self._pool = (epoch, pool), self._make_pool(epoch, pool)
        return self._pool[place]

    def _make_pool(self, epoch: int, pool: int) -> list[list[tuple[int, T]]]:
        order = list(range(self._rows))
        random.Random(f"{self._seed}/{epoch}").shuffle(order)
        members = order[pool * POOL * self._size : (pool + 1) * POOL * self._size]
        encoded = [(i, self._encode(i)) for i in members]
        encoded.sort(key=lambda pair: (self._length(pair[1]), pair[0]))
        batches = [encoded[at : at + self._size] for at in range(0, len(encoded), self._size)]
        random.Random(f"{self._seed}/{epoch}/{pool}").shuffle(batches)
        return batches


def sample(rows: Sequence[T], most: int, seed: int) -> Sequence[T]:
    """Return at most `most` rows, drawn by `seed` and kept in order.

    >>> sample([1, 2, 3, 4], 2, seed=0) == sample([1, 2, 3, 4], 2, seed=0)
    True
    """
    if len(rows) <= most:
        return rows
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), most))]

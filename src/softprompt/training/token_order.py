"""Batches by tokens instead of rows: many short rows or a few long ones, about the same work each."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Generic, TypeVar

from softprompt.training.batches import POOL

T = TypeVar("T")


class TokenOrder(Generic[T]):
    """Batches of at most so many padded tokens by step number; a pure function of the seed, as `BatchOrder` is.

    Each epoch is a fresh permutation, cut into pools of sixteen batches' tokens; a pool is sorted by length, cut into
    batches and shuffled again. How many batches a pool makes depends on its rows, so a run that is resumed encodes
    again those that it has passed.

    Args:
        rows: how many rows there are, N.
        tokens: in a batch, padding counted; a row that is longer is a batch by itself.
        seed: of the permutations.
        encode: gives row i.
        length: gives the length of an encoded row.
    """

    def __init__(
        self, rows: int, tokens: int, seed: int, encode: Callable[[int], T], length: Callable[[T], int]
    ) -> None:
        self._rows, self._tokens, self._seed = rows, tokens, seed
        self._encode, self._length = encode, length
        self._rewind()

    def at(self, step: int) -> list[tuple[int, T]]:
        """Return the batch of a step (counted from 0): pairs of row number and encoded row."""
        if step < self._first:
            self._rewind()
        while step >= self._first + len(self._pool):
            self._first += len(self._pool)
            self._next_pool()
        return self._pool[step - self._first]

    def _rewind(self) -> None:
        self._epoch, self._begin, self._first = 0, 0, 0
        self._pool: list[list[tuple[int, T]]] = []

    def _next_pool(self) -> None:
        if self._begin >= self._rows:
            self._epoch, self._begin = self._epoch + 1, 0
        order = list(range(self._rows))
        random.Random(f"{self._seed}/{self._epoch}").shuffle(order)
        encoded, tokens = [], 0
        for i in order[self._begin :]:
            if tokens >= POOL * self._tokens:
                break
            encoded.append((i, self._encode(i)))
            tokens += self._length(encoded[-1][1])
        self._pool = self._cut(encoded)
        random.Random(f"{self._seed}/{self._epoch}/{self._begin}").shuffle(self._pool)
        self._begin += len(encoded)

    def _cut(self, encoded: list[tuple[int, T]]) -> list[list[tuple[int, T]]]:
        batches: list[list[tuple[int, T]]] = []
        for pair in sorted(encoded, key=lambda pair: (self._length(pair[1]), pair[0])):
            full = batches and (len(batches[-1]) + 1) * self._length(pair[1]) > self._tokens
            if full or not batches:
                batches.append([])
            batches[-1].append(pair)
        return batches

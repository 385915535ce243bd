"""The keys and values of prompts' shared prefixes, kept by their bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock

from softprompt.modeling.bound import Prefix

Key = tuple[str, bool]
"""A prompt's digest, and the side of the backbone's `position_switch`."""


class PrefixCache:
    """Keys and values of prefixes, by prompt and side of the `position_switch`; the longest unused one goes first.

    It belongs to one backbone in one dtype, and knows neither: give models of another backbone, or of the same one
    loaded in another dtype, a cache of their own. Any number of threads may ask it. What `find` computes is computed
    outside the lock, once, however many ask for it meanwhile: they wait for that one. What a row carries may come from
    several threads at once, and the first is kept.

    Args:
        max_bytes: most bytes of keys and values that are kept; a prefix larger than that is used and not kept.

    Attributes:
        max_bytes: as given.
        bytes: of the keys and values that are kept.
        hits: how often a prefix was there, or on its way.
        misses: how often one was computed.
        evictions: how many were dropped to make room.

    >>> cache = PrefixCache()
    >>> cache.find(("digest", False), lambda: Prefix(None, 0)).length, cache.misses
    (0, 1)
    """

    def __init__(self, max_bytes: int = 512 << 20) -> None:
        self.max_bytes = max_bytes
        self.bytes = self.hits = self.misses = self.evictions = 0
        self._kept: OrderedDict[Key, Prefix] = OrderedDict()
        self._coming: dict[Key, Future[Prefix]] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        """Return how many prefixes are kept."""
        return len(self._kept)

    def find(self, key: Key, make: Callable[[], Prefix]) -> Prefix:
        """Return a prefix that is kept or on its way, else `make` it and keep it.

        Args:
            key: the prompt's digest and the side.
            make: computes it; what it raises, all who wait for this prefix raise too, and nothing is kept.
        """
        with self._lock:
            kept, coming = self._kept.get(key), self._coming.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
            if kept is None and coming is None:
                self.misses += 1
                made: Future[Prefix] = Future()
                self._coming[key] = made
            else:
                self.hits += 1
        if kept is not None:
            return kept
        return self._make(key, made, make) if coming is None else coming.result()

    def lacks(self, key: Key) -> bool:
        """Tell whether a prefix is neither kept nor on its way."""
        with self._lock:
            return key not in self._kept and key not in self._coming

    def put(self, key: Key, prefix: Prefix) -> None:
        """Keep a prefix that was computed beside something else, as one that was missed."""
        with self._lock:
            self.misses += 1
            self._keep(key, prefix)

    def forget(self, digest: str) -> None:
        """Drop the prefixes of a prompt, if they are kept; rows that use them go on with what they have."""
        with self._lock:
            for key in [(digest, far) for far in (False, True)]:
                self._drop(key)

    def _make(self, key: Key, made: Future[Prefix], make: Callable[[], Prefix]) -> Prefix:
        try:
            prefix = make()
        except BaseException as error:
            with self._lock:
                del self._coming[key]
            made.set_exception(error)
            raise
        with self._lock:
            del self._coming[key]
            self._keep(key, prefix)
        made.set_result(prefix)
        return prefix

    def _keep(self, key: Key, prefix: Prefix) -> None:
        size = prefix.bytes
        if size > self.max_bytes or key in self._kept:
            return
        while self.bytes + size > self.max_bytes:
            self._drop(next(iter(self._kept)))
            self.evictions += 1
        self._kept[key] = prefix
        self.bytes += size

    def _drop(self, key: Key) -> None:
        prefix = self._kept.pop(key, None)
        self.bytes -= 0 if prefix is None else prefix.bytes

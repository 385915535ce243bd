"""Which requests are too late."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import count
from weakref import ref

from softprompt.serving.ticket import Request

_FEW = 1024
"""So many are kept without a look at which of them have ended."""


class Deadlines:
    """Requests by the time at which they are too late; those that have ended meanwhile are swept out now and then."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, ref[Request]]] = []
        self._numbers = count()
        self._most = _FEW

    def add(self, request: Request) -> None:
        """Watch a request, if it has a deadline."""
        if request.due is not None:
            heapq.heappush(self._heap, (request.due, next(self._numbers), ref(request)))
            if len(self._heap) > self._most:
                self._sweep()

    def passed(self, now: float) -> Iterator[Request]:
        """Yield those whose time is over at `now` and who have not ended."""
        while self._heap and self._heap[0][0] <= now:
            request = heapq.heappop(self._heap)[2]()
            if request is not None and not request.ended:
                yield request

    def _sweep(self) -> None:
        """Let go of requests that have ended; the next time is when twice as many are kept."""
        kept = [(each(), (due, number, each)) for due, number, each in self._heap]
        self._heap = [entry for request, entry in kept if request is not None and not request.ended]
        heapq.heapify(self._heap)
        self._most = max(_FEW, 2 * len(self._heap))

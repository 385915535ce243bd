"""Which requests are too late."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import count
from weakref import ref

from softprompt.serving.ticket import Request


class Deadlines:
    """Requests by the time at which they are too late; one that has ended meanwhile is not kept for it."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, ref[Request]]] = []
        self._numbers = count()

    def add(self, request: Request) -> None:
        """Watch a request, if it has a deadline."""
        if request.due is not None:
            heapq.heappush(self._heap, (request.due, next(self._numbers), ref(request)))

    def passed(self, now: float) -> Iterator[Request]:
        """Yield those whose time is over at `now` and who have not ended."""
        while self._heap and self._heap[0][0] <= now:
            request = heapq.heappop(self._heap)[2]()
            if request is not None and not request.ended:
                yield request

"""Requests that are in no pass yet, and which of them come into the next: fair between names, alike in length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from softprompt.serving.ticket import Request
from softprompt.serving.turns import Turns

AHEAD = 16
"""Passes' worth of requests among which rows of like length are looked for: with 4, padding takes twice as much."""
_ALIKE = 16
"""Rows of several names whose lengths differ by less than this part count as alike, so that names can take turns."""

_OLDEST = 4
"""Of so many passes one begins with the oldest request: where names take turns alone, one unlike the others of its name
may wait for ever."""
_WORTH = 8
"""A pass of this part of its tokens is worth running, and more of them only while less than a quarter is padding."""
_WORTH_UNPADDED = 2
"""The same where rows run without their padding, which then costs attention and memory only."""


class Waiting:
    """The line in front of the passes.

    Turns decide which requests come into view, some passes' worth of them. A pass begins with the oldest request of the
    name that has waited longest for a pass, one in four with the oldest of all, and takes of the others those whose
    rows are most like its in length, the first of each name before the second of any. So little is padding, a name that
    comes into view is in one of the next passes however many requests of others are, and no request waits for ever.
    Rows that are read and rows that are written take turns apart, since these wait for a place in flight as well.

    Args:
        rows: most rows of a pass.
        tokens: most tokens of a pass, padding counted; one row may have more.
        unpadded: rows run without their padding.
    """

    def __init__(self, rows: int, tokens: int, *, unpadded: bool = False) -> None:
        self.rows, self.tokens = rows, tokens
        self._worth = _WORTH_UNPADDED if unpadded else _WORTH
        self._read, self._written = Turns[Request](), Turns[Request]()
        self._view: list[Request] = []
        self._passes = 0
        self._begun = [0, 0]  # passes that rows could not join a flight from, and those that they could
        self._served: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._read) + len(self._written) + len(self._view)

    @property
    def only_written(self) -> bool:
        """Whether no request waits that is read off, and needs no place in flight."""
        return not self._read and all(request.writing is not None for request in self._view)

    def add(self, request: Request) -> None:
        """Let a request wait for its name's turn; an answer that is written costs its most tokens too."""
        if request.writing is None:
            self._read.add(request.ask.name, request, request.width)
        else:
            self._written.add(request.ask.name, request, request.width + request.writing.most)

    def put_back(self, requests: Iterable[Request]) -> None:
        """Let requests that had their turn stand in front of all others."""
        self._view[:0] = requests

    def discard(self, request: Request) -> bool:
        """Take a request out; return whether it was waiting."""
        if request in self._view:
            self._view.remove(request)
            return True
        turns = self._read if request.writing is None else self._written
        return turns.discard(request.ask.name, request)

    def take(self, places: int, tokens: int | None = None) -> list[Request]:
        """Take out the requests of the next pass; none where none can be served.

        Args:
            places: rows that may join those in flight.
            tokens: of the pass, if it may not have as many as usual.
        """
        self._look(places)
        open_to = [request for request in self._view if request.writing is None or places > 0]
        if not open_to:
            return []
        most = self.tokens if tokens is None else min(tokens, self.tokens)
        first = self._first(open_to, may_fly=places > 0)
        chosen = set(self._alike(first, open_to, most, places))
        self._view = [request for request in self._view if request not in chosen]
        self._serve(request.ask.name for request in chosen)
        return [request for request in open_to if request in chosen]

    def clear(self) -> list[Request]:
        """Take out everything."""
        turns = [each.draw() for each in (self._read, self._written) for _ in range(len(each))]
        found, self._view = [*self._view, *turns], []
        return found

    def _first(self, open_to: Sequence[Request], *, may_fly: bool) -> Request:
        """The request that the next pass begins with; passes are counted apart, so that each kind has its fourth."""
        self._begun[may_fly] += 1
        if self._begun[may_fly] % _OLDEST == 0:
            return open_to[0]
        return min(open_to, key=lambda request: self._served.get(request.ask.name, -1))

    def _serve(self, names: Iterable[str]) -> None:
        """Note which names the latest pass serves; those that are in view no more are forgotten."""
        self._passes += 1
        served = self._served | dict.fromkeys(names, self._passes)
        self._served = {name: served[name] for name in {each.ask.name for each in self._view} if name in served}

    def _look(self, places: int) -> None:
        """Draw requests into view, of both kinds by turns, those that are written only for places in flight.

        Those in view for which there is no place now take no room there: others that could go would wait behind them.
        """
        written = [request.width for request in self._view if request.writing is not None]
        able = [request.width for request in self._view if request.writing is None] + written[: max(0, places)]
        room, rows = AHEAD * self.tokens - sum(able), AHEAD * self.rows - len(able)
        places -= len(written)
        while room > 0 and rows > 0:
            drawn = [self._read.draw()] if self._read else []
            if self._written and places > 0:
                drawn.append(self._written.draw())
                places -= 1
            if not drawn:
                return
            self._view += drawn
            rows -= len(drawn)
            room -= sum(request.width for request in drawn)

    def _alike(self, first: Request, view: list[Request], tokens: int, places: int) -> list[Request]:
        """A request and those whose rows are nearest to its in length, as many as are worth a pass."""
        chosen, widest, real = [first], first.width, first.width
        places -= first.writing is not None
        for request in _by_likeness(first, view):
            if request.writing is not None and places < 1:
                continue
            widest, real = max(widest, request.width), real + request.width
            padded = widest * (len(chosen) + 1)
            wasteful = padded > self.tokens // self._worth and 3 * padded > 4 * real
            if len(chosen) == self.rows or padded > tokens or wasteful:
                break
            places -= request.writing is not None
            chosen.append(request)
        return chosen


def _by_likeness(first: Request, view: list[Request]) -> list[Request]:
    """All other requests, those nearest in length first, and of alike ones the first of each name, then the second."""
    ranks: Counter[str] = Counter()
    order: list[tuple[int, int, int]] = []
    grain = max(1, first.width // _ALIKE) if len({each.ask.name for each in view}) > 1 else 1
    for place, request in enumerate(view):
        order.append((abs(request.width - first.width) // grain, ranks[request.ask.name], place))
        ranks[request.ask.name] += 1
    return [view[place] for _, _, place in sorted(order) if view[place] is not first]

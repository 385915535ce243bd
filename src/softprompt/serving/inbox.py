"""Where any thread leaves requests for an engine's thread, and where that thread waits for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from threading import Condition
from time import monotonic
from typing import NamedTuple

from softprompt.errors import EngineClosedError, QueueFullError
from softprompt.serving.ticket import Request

_QUIET = 0.2
"""Share of the longest wait for company after which, if none has come, an idle engine waits no more."""


_SPARE = 8
"""This part of the places is kept beyond them, at least one, for names of which few requests wait."""


class Mail(NamedTuple):
    """What came since the last time.

    Attributes:
        asked: new requests, first come first.
        given_up: requests that their askers gave up.
        over: whether the engine is to end at once.
        closing: whether it is to end when nothing is left.
    """

    asked: list[Request]
    given_up: list[Request]
    over: bool
    closing: bool


class Inbox:
    """Takes requests in while there is room.

    Where all places are taken, an eighth more are for names that hold fewer places than are left of these (a threshold
    that moves with what is free: Choudhury & Hahne, IEEE/ACM Transactions on Networking 6(2), 1998). So one name that
    fills the queue keeps no other out, and a name that has nothing waiting finds a place while there is any.

    Args:
        room: most requests of all names that may wait, those counted that are on their way in.
        wait_for: tells in how many seconds so many waiting requests will be through.
    """

    def __init__(self, room: int, wait_for: Callable[[int], float]) -> None:
        self.room, self._wait_for = room, wait_for
        self._asked: list[Request] = []
        self._given_up: list[Request] = []
        self._waiting = 0
        self._places: Counter[str] = Counter()
        self._closing = self._over = False
        self._changed = Condition()

    @property
    def waiting(self) -> int:
        """Requests that are taken in and in no pass yet."""
        return self._waiting

    @property
    def closed(self) -> bool:
        """Whether no more requests are taken."""
        return self._closing or self._over

    def reserve(self, name: str) -> None:
        """Take a place in the queue for a request of `name` that `put` will bring, or `leave` will not.

        Raises:
            QueueFullError: there is none for this name.
            EngineClosedError: no more requests are taken.
        """
        with self._changed:
            self._check_open()
            spare = self.room + max(1, self.room // _SPARE) - self._waiting
            if self._waiting < self.room or self._places[name] < spare:
                self._waiting += 1
                self._places[name] += 1
                return
            waiting = self._waiting
        seconds = self._wait_for(max(1, self.room // 4))
        raise QueueFullError(f"{waiting} requests are waiting, as many as may; ask again in {seconds:.1f} s", seconds)

    def put(self, request: Request) -> None:
        """Bring a request for which there is a place.

        Raises:
            EngineClosedError: the engine has ended meanwhile.
        """
        with self._changed:
            if self._over:
                self._free([request.ask.name])
                self._check_open()
            self._asked.append(request)
            self._changed.notify()

    def give_up(self, request: Request) -> None:
        """Bring word that a request was given up."""
        with self._changed:
            self._given_up.append(request)
            self._changed.notify()

    def leave(self, names: Iterable[str]) -> None:
        """Free the places of requests that wait no more, one for each of `names`."""
        with self._changed:
            self._free(names)
            self._changed.notify()

    def comes(self, seconds: float) -> bool:
        """Wait until there is something to do; return whether it came within so many seconds."""
        with self._changed:
            return self._changed.wait_for(self._something, seconds)

    def collect(self, *, idle: bool, gather: float, enough: int) -> Mail:
        """Return what came; an idle engine waits for something, and shortly for more of it.

        Args:
            idle: there is nothing else to do.
            gather: most seconds to wait for more once something came.
            enough: requests that are worth no more waiting.
        """
        with self._changed:
            if idle:
                self._changed.wait_for(self._something)
                self._gather(gather, enough)
            mail = Mail(self._asked, self._given_up, self._over, self._closing)
            self._asked, self._given_up = [], []
            return mail

    def close(self, *, drain: bool) -> None:
        """Take no more; end when nothing is left (`drain`) or at once."""
        with self._changed:
            self._closing = True
            self._over = self._over or not drain
            self._changed.notify()

    def _something(self) -> bool:
        return bool(self._asked or self._given_up or self._over or (self._closing and not self._waiting))

    def _free(self, names: Iterable[str]) -> None:
        for name in names:
            self._waiting -= 1
            self._places[name] -= 1
            if not self._places[name]:
                del self._places[name]

    def _gather(self, most: float, enough: int) -> None:
        """Wait while requests keep coming, so that those asked at once share a pass."""
        until = monotonic() + most
        while len(self._asked) < enough and not self.closed:
            before, left = len(self._asked), until - monotonic()
            if left <= 0:
                return
            self._changed.wait(min(left, _QUIET * most))
            if len(self._asked) == before:
                return

    def _check_open(self) -> None:
        if self.closed:
            raise EngineClosedError("the engine takes no more requests: it is ending, or has ended; ask another")

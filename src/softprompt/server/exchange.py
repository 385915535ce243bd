"""One request and the engine: its rows go in together, and what the engine tells of them comes back to the event loop.

The engine speaks on its own thread, a word a token for every row in flight. Waking the loop costs a system call, so
those who have something to hear wait in one `Relay`, and the loop is woken once for all of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from starlette.types import Receive

from softprompt.errors import RequestCancelledError
from softprompt.serving.asking import Answering, Ask, Event, Piece, Ticket


class Heard(NamedTuple):
    """Something that the engine told of one row of a request."""

    row: int
    event: Event


class Relay:
    """Lets any thread have something called in one event loop.

    Args:
        loop: where it is called.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: deque[Callable[[], None]] = deque()
        self._woken = False

    def call(self, what: Callable[[], None]) -> None:
        """Let `what` be called, in the loop; asked by any thread."""
        self._waiting.append(what)
        if not self._woken:  # two threads may both see this, and the loop is then woken twice: harmless
            self._woken = True
            with suppress(RuntimeError):  # the loop has ended, and nobody listens any more
                self.loop.call_soon_threadsafe(self._call_all)

    def _call_all(self) -> None:
        self._woken = False  # before the queue is emptied: what comes from here on wakes the loop again
        while self._waiting:
            self._waiting.popleft()()


class Exchange:
    """The rows of one request while the engine answers them; whoever opens one closes it.

    Args:
        engine: answers them.
        relay: of the loop that listens.
        patient: `next` waits until a row has ended: what is not streamed need not be handled token by token.
    """

    def __init__(self, engine: Answering, relay: Relay, *, patient: bool = False) -> None:
        self._engine, self._relay, self._patient = engine, relay, patient
        self._tickets: dict[int, Ticket] = {}
        self._heard: deque[Heard] = deque()
        self._over: set[int] = set()
        self._waiter: asyncio.Future[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._ready = self._closed = self._left = False

    def submit(self, asks: Sequence[Ask]) -> None:
        """Give every row to the engine; called by a worker thread, for rows are encoded here.

        Raises:
            SoftPromptError: the engine refuses one; those before it are given up when the exchange is closed.
        """
        for row, ask in enumerate(asks):
            self._tickets[row] = self._engine.submit(ask, partial(self._tell, row))
            if self._closed:  # the request ended meanwhile, and whoever ended it did not know of this row
                self._tickets[row].cancel()
                return

    def watch(self, receive: Receive) -> None:
        """Give everything up as soon as the caller leaves."""
        self._watch = asyncio.ensure_future(self._await_leaving(receive))

    async def next(self) -> list[Heard]:
        """Return what was told since the last call, at least one event.

        Raises:
            RequestCancelledError: the caller has left.
        """
        while True:
            if self._left:
                raise RequestCancelledError("the caller left before its answer was complete")
            if self._ready and self._heard:
                return self._taken()
            self._ready = False
            self._waiter = self._relay.loop.create_future()
            await self._waiter

    def close(self) -> None:
        """Give up what has not ended."""
        if self._watch is not None:
            self._watch.cancel()
        self._closed = True
        self._cancel()

    def _taken(self) -> list[Heard]:
        self._ready = False
        taken = []
        while self._heard:
            heard = self._heard.popleft()
            taken.append(heard)
            if not isinstance(heard.event, Piece):
                self._over.add(heard.row)
        return taken

    def _tell(self, row: int, event: Event) -> None:
        """Hear the engine, in its thread."""
        self._heard.append(Heard(row, event))
        if not (self._patient and isinstance(event, Piece)):
            self._relay.call(self._wake)

    def _wake(self) -> None:
        self._ready = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _await_leaving(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._left = True
        self._cancel()
        self._wake()

    def _cancel(self) -> None:
        for row, ticket in list(self._tickets.items()):
            if row not in self._over:
                ticket.cancel()

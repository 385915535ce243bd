"""One request and the engine: its rows go in together, and what the engine tells of them comes back to the event loop.

The engine speaks on its own thread, a word a token for every row in flight. Waking the loop costs a system call, so
those who have something to hear wait in one `Relay`, and the loop is woken once for all of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import NamedTuple, TypeVar

from starlette.types import Receive

from softprompt.errors import DeadlineError, RequestCancelledError
from softprompt.server.problems import Problem
from softprompt.serving.asking import Answering, Ask, Ended, Event, Piece, Ticket, Usage

T = TypeVar("T")


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
        deadline: seconds from now within which all is answered.
        unread: tokens, the likeliest in their place counted too, that wait for `next` at most where it is not patient;
            with more, all is given up.
    """

    def __init__(
        self,
        engine: Answering,
        relay: Relay,
        *,
        patient: bool = False,
        deadline: float | None = None,
        unread: float = float("inf"),
    ) -> None:
        self._engine, self._relay, self._patient = engine, relay, patient
        self._deadline, self._unread = deadline, unread
        self._due = None if deadline is None else monotonic() + deadline
        self._taken: dict[int, Usage] = {}
        self._told = self._read = 0
        self._tickets: dict[int, Ticket] = {}
        self._heard: deque[Heard] = deque()
        self._over: set[int] = set()
        self._waiter: asyncio.Future[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._ready = self._closed = self._left = self._full = False

    def check(self) -> None:
        """Return if somebody still waits for answers; asked before each step that takes long.

        Raises:
            RequestCancelledError: nobody does.
            DeadlineError: it is too late.
        """
        if self._closed or self._left:
            raise RequestCancelledError("the caller left before its answer was complete")
        if self._due is not None and monotonic() >= self._due:
            raise self._late()

    def submit(self, asks: Sequence[Ask]) -> None:
        """Give every row to the engine; called by a worker thread, for rows are encoded here.

        Raises:
            SoftPromptError: the engine refuses one, or nobody waits any more; those before it are given up when the
                exchange is closed.
        """
        for row, ask in enumerate(asks):
            self.check()
            self._tickets[row] = self._engine.submit(self._in_time(ask), partial(self._tell, row))
            if self._closed or self._left:  # meanwhile, and whoever ended it did not know of this row
                self._tickets[row].cancel()
                return

    async def during(self, work: Coroutine[object, object, T]) -> T:
        """Return what `work` does, unless the caller, who is watched, leaves or the deadline passes meanwhile.

        Raises:
            RequestCancelledError: the caller left.
            DeadlineError: it took too long.
        """
        assert self._watch is not None, "watch first"
        task = asyncio.ensure_future(work)
        try:
            left = None if self._due is None else max(0.0, self._due - monotonic())
            done, _ = await asyncio.wait({task, self._watch}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise self._late()
            if task not in done:
                self.check()
            return await task
        finally:
            task.cancel()  # of a thread's work that has not begun, nothing is done any more

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
            if self._full:
                message = f"more than {self._unread:,} tokens of this stream were not read, and it was given up"
                raise Problem(408, f"{message}; read it as it comes, or ask for less", code="stream_not_read")
            if self._ready and self._heard:
                return self._all_heard()
            self._ready = False
            self._waiter = self._relay.loop.create_future()
            await self._waiter

    def close(self) -> None:
        """Give up what has not ended."""
        if self._watch is not None:
            self._watch.cancel()
        self._closed = True
        self._cancel()

    def taken(self) -> dict[int, Usage]:
        """Return what each row took so far, whether `next` has returned that or not.

        The tokens in front of an answer count from its first pass on, not from its end: who leaves early had them too.
        """
        found: dict[int, Usage] = {}
        for row, ticket in list(self._tickets.items()):
            told = self._taken.get(row, Usage(0, 0))
            found[row] = told if told.prompt_tokens else told._replace(prompt_tokens=ticket.read)
        return found

    def _all_heard(self) -> list[Heard]:
        self._ready = False
        taken = []
        while self._heard:
            heard = self._heard.popleft()
            taken.append(heard)
            if isinstance(heard.event, Piece):
                self._read += _size(heard.event)
            else:
                self._over.add(heard.row)
        return taken

    def _tell(self, row: int, event: Event) -> None:
        """Hear the engine, in its thread."""
        self._count(row, event)
        if self._full:
            return
        self._heard.append(Heard(row, event))
        if not self._patient and self._told - self._read > self._unread:
            self._full = True
            self._relay.call(self._overflow)
        if not (self._patient and isinstance(event, Piece)):
            self._relay.call(self._wake)

    def _count(self, row: int, event: Event) -> None:
        """Count what a row took, as soon as it did."""
        prompt, written = self._taken.get(row, Usage(0, 0))
        if isinstance(event, Piece):
            self._told += _size(event)
            self._taken[row] = Usage(prompt, written + len(event.tokens))
        elif isinstance(event, Ended):
            self._taken[row] = Usage(event.usage.prompt_tokens, max(written, event.usage.completion_tokens))

    def _overflow(self) -> None:
        self._heard.clear()
        self._cancel()

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

    def _in_time(self, ask: Ask) -> Ask:
        """What is asked, with as much of its time as is left."""
        if self._due is None:
            return ask
        return replace(ask, deadline=max(1e-6, self._due - monotonic()))

    def _late(self) -> DeadlineError:
        return DeadlineError(
            f"not encoded within {self._deadline:g} s, for the server has many long texts before it; ask again, or less"
        )

    def _cancel(self) -> None:
        for row, ticket in list(self._tickets.items()):
            if row not in self._over:
                ticket.cancel()


def _size(piece: Piece) -> int:
    """What a piece weighs while it waits: its tokens, and the likeliest that are told beside them."""
    return sum(1 + len(token.likeliest) for token in piece.tokens)

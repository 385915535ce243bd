"""One request on its way through an engine, and what its asker holds of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic

from softprompt.errors import DeadlineError, EngineClosedError, RequestCancelledError
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.readings import EncodedRow
from softprompt.modeling.writing import Writing
from softprompt.serving.asking import Ask, Ended, Event, Failed, Listener
from softprompt.serving.observing import Outcome

_LOG = logging.getLogger("softprompt.serving")


class Request:
    """A request that was taken in: the ticket of whoever asked, and what the engine knows of it.

    Everything but `result`, `cancel` and `read` is the engine's, and is touched by its thread alone.

    Args:
        ask: what was asked.
        bound: its prompt in the backbone's terms.
        row: its row in tokens.
        writing: the answer that is to be written; none where it is read off.
        listener: hears every event.
        give_up: tells the engine that this request was given up.

    Attributes:
        came: when it was taken in, in seconds of the monotonic clock.
        due: when it is too late for an answer.
        started: whether it came into a pass.
        read: its `tokens`, once it did; 0 before.
        told: how many of its tokens were told.
        token_at: when the last of them came.
        ended: whether the last event was told.
    """

    __slots__ = (
        "__weakref__",
        "_done",
        "_end",
        "_give_up",
        "_listener",
        "ask",
        "bound",
        "came",
        "due",
        "ended",
        "read",
        "row",
        "started",
        "token_at",
        "told",
        "writing",
    )  # fmt: skip

    def __init__(
        self,
        ask: Ask,
        bound: BoundPrompt,
        row: EncodedRow,
        writing: Writing | None,
        listener: Listener | None,
        give_up: Callable[[Request], None],
    ) -> None:
        self.ask, self.bound, self.row, self.writing = ask, bound, row, writing
        self.came = monotonic()
        self.due = None if ask.deadline is None else self.came + ask.deadline
        self.started = False
        self.read, self.told = 0, 0
        self.token_at: float | None = None
        self.ended = False
        self._listener, self._give_up = listener, give_up
        self._end: Ended | Failed | None = None
        self._done = threading.Event()

    @property
    def tokens(self) -> int:
        """Virtual tokens and tokens of text that stand in front of the answer."""
        return len(self.bound.template.prefix) + len(self.row.ids)

    @property
    def width(self) -> int:
        """Tokens that its first pass runs; what it has written already, where it goes on from there, counted."""
        written = 0 if self.writing is None else len(self.writing.tokens)
        return max(1, len(self.bound.carried(shared=True)) + len(self.row.ids) + written)

    @property
    def heard(self) -> bool:
        """Whether somebody hears its events as they come."""
        return self._listener is not None

    def result(self, timeout: float | None = None) -> Ended:
        """Wait for the end and return it, or raise what the request failed with.

        Raises:
            TimeoutError: it did not end within `timeout` seconds; it goes on.
        """
        if not self._done.wait(timeout):
            raise TimeoutError(f"no answer within {timeout:g} s; the request goes on, `cancel()` gives it up")
        if isinstance(self._end, Ended):
            return self._end
        assert self._end is not None, "a request that is done has an end"
        raise self._end.error

    def cancel(self) -> None:
        """Give the request up; nothing happens where it has ended already."""
        if not self._done.is_set():
            self._give_up(self)

    def tell(self, event: Event) -> None:
        """Hand an event to the listener, if there is one; one that fails is not called again."""
        if self._listener is None:
            return
        try:
            self._listener(event)
        except Exception:  # noqa: BLE001 - who asks must not harm others who do
            _LOG.exception("the listener of a request for `%s` failed and hears no more of it", self.ask.name)
            self._listener = None

    def end(self, event: Ended | Failed) -> None:
        """Tell the last event, and let go of whoever waits for it."""
        self.ended = True
        self._end = event
        self.tell(event)
        self._listener = None
        self._done.set()


_OUTCOMES: dict[type[Exception], Outcome] = {
    RequestCancelledError: "cancelled",
    DeadlineError: "deadline",
    EngineClosedError: "closed",
}


def outcome_of(event: Ended | Failed) -> Outcome:
    """Return what an observer is told of a request's end."""
    return event.reason if isinstance(event, Ended) else _OUTCOMES.get(type(event.error), "failed")

"""What an engine tells whoever measures it: one call for each thing that happens, outside every lock."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, runtime_checkable

Outcome = Literal["read", "stop", "length", "cancelled", "deadline", "failed", "closed"]
"""How a request ended: answered (read off, ended by itself, or at its most tokens), given up, too late, an error, or
with the engine."""

_LOG = logging.getLogger("softprompt.serving")


class Step(NamedTuple):
    """One turn of an engine, at its end; also one that ran nothing, where requests were given up or were too late.

    Attributes:
        seconds: that it took.
        read: rows that were answered in its pass without writing.
        begun: rows whose answers began to be written.
        written: rows that got a token each.
        prompts: distinct prompts among all these rows.
        tokens: tokens that were run, those of new rows and one for each row that got a token; no padding.
        slots: slots of the cache of rows in flight, padding counted.
        running: rows in flight, at its end.
        waiting: requests that are taken in and in no pass yet, at its end.
    """

    seconds: float
    read: int
    begun: int
    written: int
    prompts: int
    tokens: int
    slots: int
    running: int
    waiting: int

    @property
    def rows(self) -> int:
        """Rows that shared this turn."""
        return self.read + max(self.begun, self.written)


class CacheUse(NamedTuple):
    """Prompts' keys and values that are kept: how often they were there and were not, since the engine began.

    Attributes:
        hits: rows whose prompt was there.
        misses: rows whose prompt had to be run first.
        bytes: kept now.
        prompts: kept now.
    """

    hits: int
    misses: int
    bytes: int
    prompts: int


@runtime_checkable
class Observer(Protocol):
    """Hears what happens in an engine; `name` is the name that a request's turns are counted by.

    `queued` and `refused` are called in the thread that asks, all others in the engine's, which waits meanwhile.
    """

    def queued(self, name: str, prompt_tokens: int) -> None:
        """A request was taken in; so many virtual tokens and tokens of text stand in front of its answer."""
        ...

    def refused(self, name: str) -> None:
        """A request was not taken in, because as many wait as may."""
        ...

    def started(self, name: str, waited: float) -> None:
        """A request came into its first pass, `waited` seconds after it was taken in."""
        ...

    def first_token(self, name: str, seconds: float) -> None:
        """The first token of a written answer is there, `seconds` after the request was taken in."""
        ...

    def token_gap(self, name: str, seconds: float) -> None:
        """A further token of a written answer is there, `seconds` after the one before it."""
        ...

    def ended(self, name: str, outcome: Outcome, seconds: float, completion_tokens: int) -> None:
        """A request ended, `seconds` after it was taken in, with so many tokens written."""
        ...

    def step(self, step: Step) -> None:
        """A turn of the engine ended."""
        ...

    def cache(self, use: CacheUse) -> None:
        """The use of kept prompts, told after a turn in which new rows were run."""
        ...


class Unobserved:
    """An observer that ignores everything."""

    def queued(self, name: str, prompt_tokens: int) -> None:
        """Ignore it."""

    def refused(self, name: str) -> None:
        """Ignore it."""

    def started(self, name: str, waited: float) -> None:
        """Ignore it."""

    def first_token(self, name: str, seconds: float) -> None:
        """Ignore it."""

    def token_gap(self, name: str, seconds: float) -> None:
        """Ignore it."""

    def ended(self, name: str, outcome: Outcome, seconds: float, completion_tokens: int) -> None:
        """Ignore it."""

    def step(self, step: Step) -> None:
        """Ignore it."""

    def cache(self, use: CacheUse) -> None:
        """Ignore it."""


class Harmless:
    """Passes everything on to an observer, and keeps its exceptions from the requests: each is logged.

    Args:
        observer: who really hears.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def queued(self, name: str, prompt_tokens: int) -> None:
        """Pass it on."""
        _tell(self._observer.queued, name, prompt_tokens)

    def refused(self, name: str) -> None:
        """Pass it on."""
        _tell(self._observer.refused, name)

    def started(self, name: str, waited: float) -> None:
        """Pass it on."""
        _tell(self._observer.started, name, waited)

    def first_token(self, name: str, seconds: float) -> None:
        """Pass it on."""
        _tell(self._observer.first_token, name, seconds)

    def token_gap(self, name: str, seconds: float) -> None:
        """Pass it on."""
        _tell(self._observer.token_gap, name, seconds)

    def ended(self, name: str, outcome: Outcome, seconds: float, completion_tokens: int) -> None:
        """Pass it on."""
        _tell(self._observer.ended, name, outcome, seconds, completion_tokens)

    def step(self, step: Step) -> None:
        """Pass it on."""
        _tell(self._observer.step, step)

    def cache(self, use: CacheUse) -> None:
        """Pass it on."""
        _tell(self._observer.cache, use)


def _tell(method: Callable[..., None], *what: object) -> None:
    try:
        method(*what)
    except Exception:  # noqa: BLE001 - what measures must not harm what is measured
        _LOG.exception("an observer failed and is asked again next time; requests go on")

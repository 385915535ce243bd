"""Limits: of requests and tokens a minute for each key, and of the bytes of a request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from threading import Lock

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from softprompt.server.health import Health
from softprompt.server.keyring import Key
from softprompt.server.problems import Problem

MINUTE = 60.0
PATIENCE = 60.0
"""Seconds within which a request's body must arrive, and more as more of it comes:"""
PACE = 16 * 1024
"""bytes a second."""


class Bucket:
    """A token bucket: a minute's worth at most lies in it, and it fills at an even rate.

    What a request takes may be known only at its end, so it may be drawn below nothing; then nobody draws until it
    has filled up again.

    Args:
        per_minute: how much flows in a minute, above 0.
        clock: seconds that never go back.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self._clock = per_minute, clock
        self._level, self._seen = self._top, clock()

    @property
    def _top(self) -> float:
        return max(self.per_minute, 1.0)  # less than one a minute: one, and then a longer wait

    def wait(self, amount: float) -> float:
        """Return the seconds until `amount` can be drawn: 0 if it can be now."""
        self._fill()
        missing = min(amount, self._top) - self._level
        return max(0.0, missing * MINUTE / self.per_minute)

    def draw(self, amount: float) -> None:
        """Take `amount` out, even if there is less."""
        self._fill()
        self._level -= amount

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self._top, self._level + (now - self._seen) * self.per_minute / MINUTE)
        self._seen = now


class Limiter:
    """Counts what each key takes; kept by the keys' names, so that its memory is bounded by the file of keys.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, Lock()
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def enter(self, key: Key) -> tuple[str, float] | None:
        """Count one request of `key`; return what there is too much of and the seconds to wait, if it must."""
        with self._lock:
            requests = self._bucket(key, "requests", key.requests_per_minute)
            tokens = self._bucket(key, "tokens", key.tokens_per_minute)
            for what, bucket in (("requests", requests), ("tokens", tokens)):
                if bucket is not None and (wait := bucket.wait(1.0)) > 0:
                    return what, wait
            if requests is not None:
                requests.draw(1.0)
        return None

    def spend(self, key: Key, tokens: int) -> None:
        """Count the tokens that a request of `key` took."""
        with self._lock:
            bucket = self._bucket(key, "tokens", key.tokens_per_minute)
            if bucket is not None:
                bucket.draw(tokens)

    def _bucket(self, key: Key, what: str, per_minute: float | None) -> Bucket | None:
        if per_minute is None:
            return None
        known = self._buckets.get((key.name, what))
        if known is None or known.per_minute != per_minute:
            known = self._buckets[key.name, what] = Bucket(per_minute, self._clock)
        return known


class Patience:
    """Refuses a request whose body does not come: one that is sent a byte a minute would hold its place for hours.

    Args:
        app: the application.
        seconds: within which a body must have arrived, those aside that its bytes take at `PACE`.
        health: once the server is ending, a body that is not there is waited for no longer.
    """

    def __init__(self, app: ASGIApp, seconds: float = PATIENCE, health: Health | None = None) -> None:
        self._app, self._seconds, self._health = app, seconds, health or Health()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        due, coming = asyncio.get_running_loop().time() + self._seconds, True

        async def hurried() -> Message:
            nonlocal coming, due
            if not coming:
                return await receive()
            try:
                message = await self._in_time(receive, due)
            except TimeoutError:
                if self._health.draining:
                    raise self._health.refusal() from None
                least = f"within {self._seconds:g} s, or at {PACE:,} bytes a second"
                reason = f"the request's body did not arrive {least}; send it again"
                raise Problem(408, reason, code="body_timeout", headers={"Connection": "close"}) from None
            coming = bool(message.get("more_body"))
            due += len(message.get("body", b"")) / PACE
            return message

        await self._app(scope, hurried, send)

    async def _in_time(self, receive: Receive, due: float) -> Message:
        """The next part of a body; of an ending server, only one that is there already."""
        coming = self._health.coming
        async with asyncio.timeout_at(0.0 if self._health.draining else due) as waiting:
            coming.add(waiting)
            try:
                return await receive()
            finally:
                coming.discard(waiting)

"""Texts as they are answered: in one, or as server-sent events that end with `[DONE]`, or with an error."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from softprompt.errors import RequestCancelledError
from softprompt.server.answering import Answers, Growing, Order, answers_of, json_bytes
from softprompt.server.context import context_of
from softprompt.server.keys import Caller
from softprompt.server.logs import record_of
from softprompt.server.models import Model
from softprompt.server.problems import problem_of

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"


class Shape(Protocol):
    """How one endpoint writes answers down."""

    @property
    def prefix(self) -> str:
        """What ids of answers begin with."""
        ...

    @property
    def whole(self) -> str:
        """The `object` of an answer in one."""
        ...

    @property
    def part(self) -> str:
        """The `object` of a part of a stream."""
        ...

    def choice(self, answer: Growing) -> dict[str, Any]:
        """Return an answer that has ended."""
        ...

    def delta(self, answer: Growing) -> dict[str, Any]:
        """Return what has come of an answer since the last call."""
        ...


async def answered(
    request: Request, by: Caller, plan: Callable[[], Order], shape: Shape, *, stream: bool, usage: bool
) -> Response:
    """Answer a request whose answers are texts or take the place of texts.

    Args:
        request: what came.
        by: who asked.
        plan: finds the prompt and makes the rows; called in a worker thread.
        shape: how the endpoint writes answers down.
        stream: send them as they come.
        usage: end a stream with what it took.
    """
    order, answers = await answers_of(request, by, plan, stream=stream)
    try:
        head = _head(order.model, shape.part if stream else shape.whole, shape.prefix)
        if stream:
            first = await answers.more()  # what fails before the first word has a status of its own
            events = _events(answers, first, head, shape, usage, record_of(request.scope).id)
            return EventStream(events, answers, context_of(request).settings.send_timeout)
        choices = [shape.choice(row) for row in await answers.all()]
        body = json_bytes({**head, "choices": choices, "usage": answers.usage()})
    except BaseException:
        answers.close()
        raise
    answers.close()
    return Response(body, media_type="application/json")


class EventStream(Response):
    """Server-sent events, each chunk of bytes sent as soon as it is there.

    Args:
        events: whole events.
        answers: closed at the end, also of a stream that never began.
        seconds: within which the caller must make room for the next chunk; then the connection is closed.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], answers: Answers, seconds: float) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._answers, self._seconds = events, answers, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them; a stream that is not taken ends without its end, which closes the connection."""
        try:
            await self._send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with aclosing(self._events) as events:  # type: ignore[type-var]
                async for event in events:
                    await self._send(send, {"type": "http.response.body", "body": event, "more_body": True})
            await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})
        except _UntakenError:
            told = {"id": record_of(scope).id}
            logger.warning("a stream was given up: its caller took nothing for %g s", self._seconds, extra=told)
        finally:
            self._answers.close()

    async def _send(self, send: Send, message: Message) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await send(message)
        except TimeoutError:
            raise _UntakenError from None


class _UntakenError(Exception):
    """A caller who does not read."""


async def _events(
    answers: Answers, grown: Sequence[Growing], head: dict[str, Any], shape: Shape, usage: bool, log_id: str
) -> AsyncIterator[bytes]:
    """A stream's events: what came together goes together, one event for each answer that has grown."""
    before = json_bytes(head)[:-1] + b',"choices":['
    behind = b'],"usage":null}\n\n' if usage else b"]}\n\n"
    try:
        while True:
            yield b"".join(b"data: " + before + json_bytes(shape.delta(row)) + behind for row in grown)
            if answers.done:
                break
            grown = await answers.more()
        if usage:
            yield b"data: " + json_bytes({**head, "choices": [], "usage": answers.usage()}) + b"\n\n"
        yield DONE
    except RequestCancelledError:
        return  # nobody reads any more
    except Exception as error:  # noqa: BLE001 - the status is sent already, so the stream itself must tell
        yield b"data: " + json_bytes(problem_of(error, log_id).body()) + b"\n\n"


def _head(model: Model, kind: str, prefix: str) -> dict[str, Any]:
    named = {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time())}
    return {**named, "model": model.id, "system_fingerprint": model.fingerprint}

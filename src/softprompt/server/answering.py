"""From a form to an answer: rows go to the engine, and what comes back is gathered, or streamed as it comes.

Everything that takes longer with a longer request happens on a worker thread: a prompt may have to be read from disk,
and rows are encoded when they are submitted, which takes milliseconds a page. On the event loop each of those would
hold up every stream of every caller.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from softprompt.errors import RequestCancelledError
from softprompt.server.context import context_of
from softprompt.server.exchange import Exchange, Relay
from softprompt.server.keys import Caller
from softprompt.server.logs import record_of
from softprompt.server.models import Model
from softprompt.server.problems import problem_of
from softprompt.serving.asking import Ask, Ended, Failed, Piece, Token

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Order:
    """What a request asks of the engine.

    Attributes:
        model: answers it.
        asks: its rows.
        each: how many rows ask the same, one behind the other; their words in front count once.
    """

    model: Model
    asks: Sequence[Ask]
    each: int = 1


class Growing:
    """One answer while it comes.

    Attributes:
        index: its number in the request.
        ended: how it ended, once it has.
        said: characters of tokens that were told before the fresh ones.
        begun: whether something of it has been told.
    """

    __slots__ = ("_texts", "_tokens", "begun", "ended", "index", "said")

    def __init__(self, index: int) -> None:
        self.index = index
        self.ended: Ended | None = None
        self.begun, self.said = False, 0
        self._texts: list[str] = []
        self._tokens: list[Token] = []

    def hear(self, event: Piece | Ended) -> None:
        """Take in what the engine told of it; an answer that was read is its own text."""
        if isinstance(event, Piece):
            self._texts.append(event.text)
            self._tokens.extend(event.tokens)
            return
        self.ended = event
        if event.reason == "read":
            self._texts.append(event.answer.label)

    def fresh(self) -> tuple[str, list[Token]]:
        """Return the text and the tokens that came since the last call."""
        text, tokens = "".join(self._texts), self._tokens
        self._texts, self._tokens = [], []
        return text, tokens


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


class Answers:
    """The answers to one request, from its rows' submission to the last word.

    Args:
        exchange: with the engine.
        order: what was asked.
        by: who asked.
    """

    def __init__(self, exchange: Exchange, order: Order, by: Caller) -> None:
        self._exchange, self._order, self._by = exchange, order, by
        self.rows = [Growing(index) for index in range(len(order.asks))]
        self._open, self._written = len(self.rows), 0

    @property
    def done(self) -> bool:
        """Whether all have ended."""
        return not self._open

    async def more(self) -> list[Growing]:
        """Return the answers that have grown since the last call, at least one.

        Raises:
            RequestCancelledError: the caller has left.
            Exception: what a row failed with.
        """
        grown: dict[int, Growing] = {}
        for row, event in await self._exchange.next():
            if isinstance(event, Failed):
                raise event.error
            self.rows[row].hear(event)
            grown[row] = self.rows[row]
            if isinstance(event, Ended):
                self._open -= 1
            else:
                self._written += len(event.tokens)
        return list(grown.values())

    async def all(self) -> list[Growing]:
        """Wait for the end of all of them."""
        while not self.done:
            await self.more()
        return self.rows

    def close(self) -> None:
        """Give up what has not ended, and count what was taken."""
        self._exchange.close()
        usage = self.usage()
        self._by.spent(self._order.model.id, usage["prompt_tokens"], max(usage["completion_tokens"], self._written))

    def usage(self) -> dict[str, int]:
        """Return what those that have ended took."""
        ended = [(row.index, row.ended.usage) for row in self.rows if row.ended is not None]
        read = sum(usage.prompt_tokens for index, usage in ended if index % self._order.each == 0)
        written = sum(usage.completion_tokens for _, usage in ended)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


async def answers_of(
    request: Request, by: Caller, plan: Callable[[], Order], *, stream: bool = False
) -> tuple[Order, Answers]:
    """Submit a request's rows and listen; whoever gets the answers closes them.

    Args:
        request: whose caller may leave.
        by: who asked.
        plan: finds the prompt and makes the rows; called in a worker thread.
        stream: they are wanted as they come.
    """
    exchange = Exchange(context_of(request).engine, relay_of(request), patient=not stream)
    try:
        order = await asyncio.to_thread(_submitted, exchange, plan)
    except BaseException:
        exchange.close()
        raise
    exchange.watch(request.receive)
    return order, Answers(exchange, order, by)


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
            return EventStream(_events(answers, first, head, shape, usage, record_of(request.scope).id), answers)
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
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], answers: Answers) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._answers = events, answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async with aclosing(self._events) as events:  # type: ignore[type-var]
                async for event in events:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._answers.close()


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


def json_bytes(data: Any) -> bytes:
    """Return plain JSON as it is sent."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def relay_of(request: Request) -> Relay:
    """Return the application's relay to the loop that is running."""
    state, loop = request.app.state, asyncio.get_running_loop()
    relay: Relay | None = getattr(state, "relay", None)
    if relay is None or relay.loop is not loop:
        relay = state.relay = Relay(loop)
    return relay


def _submitted(exchange: Exchange, plan: Callable[[], Order]) -> Order:
    order = plan()
    exchange.submit(order.asks)
    return order


def _head(model: Model, kind: str, prefix: str) -> dict[str, Any]:
    named = {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time())}
    return {**named, "model": model.id, "system_fingerprint": model.fingerprint}

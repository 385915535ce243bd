"""From rows to answers: they go to the engine, and what it tells of each is gathered as it comes.

Everything that takes longer with a longer request happens on a worker thread: a prompt may have to be read from disk,
and rows are encoded when they are submitted, which takes milliseconds a page. On the event loop each of those would
hold up every stream of every caller.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request

from softprompt.server.context import context_of
from softprompt.server.exchange import Exchange, Relay
from softprompt.server.keys import Caller
from softprompt.server.models import Model
from softprompt.serving.asking import Ask, Ended, Failed, Piece, Token, Usage

LONG = 64 * 1024
"""Bytes of a request above which its texts may take a good part of a second to encode;"""
LONG_AT_ONCE = 2
"""as many of such requests are encoded at the same time: a text that has begun to be cannot be given up."""


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


class Answers:
    """The answers to one request, from its rows' submission to the last word.

    Args:
        exchange: with the engine.
        by: who asked.
    """

    def __init__(self, exchange: Exchange, by: Caller) -> None:
        self._exchange, self._by = exchange, by
        self._order: Order | None = None
        self.rows: list[Growing] = []
        self._open = 0

    def submit(self, plan: Callable[[], Order]) -> Order:
        """Make the rows and give them to the engine, in a worker thread; return what was asked.

        Raises:
            SoftPromptError: what `plan` or `Exchange.submit` raises; rows that were taken in before count all the same.
        """
        self._exchange.check()
        order = self._order = plan()
        self.rows = [Growing(index) for index in range(len(order.asks))]
        self._open = len(self.rows)
        self._exchange.submit(order.asks)
        return order

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
        return list(grown.values())

    async def all(self) -> list[Growing]:
        """Wait for the end of all of them."""
        while not self.done:
            await self.more()
        return self.rows

    def close(self) -> None:
        """Give up what has not ended, and count what was taken, whether it was read or not."""
        self._exchange.close()
        if self._order is not None:
            usage = self._usage(self._exchange.taken(), self._order.each)
            self._by.spent(self._order.model.id, usage["prompt_tokens"], usage["completion_tokens"])

    def usage(self) -> dict[str, int]:
        """Return what those that have ended took."""
        assert self._order is not None, "what has ended was submitted"
        ended = {row.index: row.ended.usage for row in self.rows if row.ended is not None}
        return self._usage(ended, self._order.each)

    def _usage(self, taken: Mapping[int, Usage], each: int) -> dict[str, int]:
        """The sum of what rows took; of those that ask the same, the words in front count once."""
        read = {index // each: usage.prompt_tokens for index, usage in taken.items() if usage.prompt_tokens}
        written = sum(usage.completion_tokens for usage in taken.values())
        total = sum(read.values())
        return {"prompt_tokens": total, "completion_tokens": written, "total_tokens": total + written}


async def answers_of(
    request: Request, by: Caller, plan: Callable[[], Order], *, stream: bool = False
) -> tuple[Order, Answers]:
    """Submit a request's rows and listen; whoever gets the answers closes them.

    Nothing is encoded for a caller who has left, or whose time is over.

    Args:
        request: whose caller may leave.
        by: who asked.
        plan: finds the prompt and makes the rows; called in a worker thread.
        stream: they are wanted as they come.
    """
    context = context_of(request)
    settings = context.settings
    exchange = Exchange(
        context.engine,
        relay_of(request),
        patient=not stream,
        deadline=settings.deadline,
        unread=settings.max_unread,
    )
    exchange.watch(request.receive)
    answers = Answers(exchange, by)
    try:
        order = await exchange.during(_on_a_thread(request, partial(answers.submit, plan)))
    except BaseException:
        answers.close()
        raise
    return order, answers


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


async def _on_a_thread(request: Request, work: Callable[[], Order]) -> Order:
    """Do what takes long on a worker thread; for long requests there are few, so that short ones find theirs free."""
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told[:20]) <= LONG:
        return await asyncio.to_thread(work)
    pool: Executor | None = getattr(request.app.state, "long_requests", None)
    if pool is None:
        pool = request.app.state.long_requests = ThreadPoolExecutor(LONG_AT_ONCE, "softprompt-long")
    return await asyncio.get_running_loop().run_in_executor(pool, copy_context().run, work)

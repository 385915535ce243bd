"""From rows to answers: they go to the engine, and what it tells of each is gathered as it comes.

Everything that takes longer with a longer request happens on a worker thread: a prompt may have to be read from disk,
and rows are encoded when they are submitted, which takes milliseconds a page. On the event loop each of those would
hold up every stream of every caller.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from softprompt.server.context import context_of
from softprompt.server.exchange import Exchange, Relay
from softprompt.server.keys import Caller
from softprompt.server.models import Model
from softprompt.serving.asking import Ask, Ended, Failed, Piece, Token


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

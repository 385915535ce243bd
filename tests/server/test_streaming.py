"""Streams whose callers do not read them: what is kept of them, what is charged, and when they end."""

from __future__ import annotations

import asyncio
import json
import threading
import time

from softprompt.errors import QueueFullError
from softprompt.server.keys import Door
from softprompt.server.limits import Limiter
from softprompt.server.streaming import EventStream
from softprompt.serving.asking import Piece, Token


class Answers:
    closed = 0

    def close(self):
        self.closed += 1


async def two():
    yield b"data: 1\n\n"
    yield b"data: 2\n\n"


def test_a_stream_that_is_not_taken_is_given_up(caplog):
    sent = []

    async def send(message):
        sent.append(message)
        if message.get("body"):
            await asyncio.Event().wait()

    answers = Answers()
    asyncio.run(asyncio.wait_for(EventStream(two(), answers, 0.05)({"type": "http"}, None, send), 5))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert answers.closed == 1
    assert "a stream was given up: its caller took nothing for 0.05 s" in caplog.text


def test_one_that_is_taken_slowly_is_not(caplog):
    sent = []

    async def send(message):
        await asyncio.sleep(0.03)
        sent.append(message.get("body"))

    asyncio.run(EventStream(two(), Answers(), 1.0)({"type": "http"}, None, send))
    assert sent == [None, b"data: 1\n\n", b"data: 2\n\n", b""]
    assert caplog.text == ""


class Spending(Limiter):
    """Remembers what was charged."""

    def __init__(self):
        super().__init__()
        self.spent = []

    def spend(self, key, tokens):
        self.spent.append(tokens)


def test_a_stream_whose_reader_stands_still_ends_in_an_error_and_all_that_was_told_is_charged(serving, rig):
    gone, limiter = threading.Event(), Spending()

    def endless(ask):
        for i in range(1_000_000):
            if gone.is_set():
                return
            yield Piece("x" * 50_000, (Token(i, "x", -0.5),))
            time.sleep(0.0002)

    rig.engine.script = endless
    with serving(
        rig.app.state.context.backbone, rig.engine, rig.catalog, Door(limiter=limiter), max_unread=500
    ) as slow:
        body = json.dumps({"model": "summary", "prompt": "a", "stream": True})
        slow.connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        ticket = wait_for(lambda: rig.engine.tickets and rig.engine.tickets[-1])
        assert ticket.cancelled.wait(20)  # though nobody has read a byte
        gone.set()
        events = slow.connection.getresponse().read().decode().split("\n\n")
        charged = wait_for(lambda: limiter.spent)
    assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "stream_not_read"
    heard = sum(event.count("x" * 50_000) for event in events)
    assert charged[0] > heard + 400


def test_a_caller_who_leaves_a_stream_is_charged_for_what_was_read_too(serving, rig):
    limiter = Spending()

    def slow(ask):
        yield Piece("x", (Token(1, "x", -0.5),))
        yield threading.Event()  # until it is given up
        yield Piece("y", ())

    rig.engine.script, rig.engine.read = slow, 40
    with serving(rig.app.state.context.backbone, rig.engine, rig.catalog, Door(limiter=limiter)) as left:
        body = json.dumps({"model": "summary", "prompt": "a", "stream": True, "n": 2})
        left.connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        reply = left.connection.getresponse()
        assert reply.readline().startswith(b"data: ")
        reply.close()
        left.connection.close()
        charged = wait_for(lambda: limiter.spent)
    assert charged == [40 + 2]  # the words in front of both answers once


def test_rows_that_were_taken_in_before_one_that_cannot_be_are_charged(serving, rig):
    limiter = Spending()
    with serving(rig.app.state.context.backbone, rig.engine, rig.catalog, Door(limiter=limiter)) as busy:
        rig.engine.read, rig.engine.refusal = 5, (2, QueueFullError("full"))
        assert busy.classify(model="sentiment", input=["a", "b", "c"]).status == 429
        assert wait_for(lambda: limiter.spent) == [10]
        assert busy.classify(model="nobody", input=["a"]).status == 404
    assert limiter.spent == [10]


def wait_for(condition):
    until = time.monotonic() + 20
    while time.monotonic() < until and not condition():
        time.sleep(0.01)
    return condition()

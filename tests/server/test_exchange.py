"""The bridge between the engine's thread and the event loop."""

import asyncio
import threading
import time
from functools import partial

import pytest

from softprompt.errors import DataError, DeadlineError, RequestCancelledError
from softprompt.server.exchange import Exchange, Relay
from softprompt.server.problems import Problem
from softprompt.serving.asking import Ask, Ended, Failed, Piece, Token, Usage


class Engine:
    """Takes rows in, and lets the test speak for it."""

    def __init__(self):
        self.listeners, self.cancelled, self.refuse = [], [], None

    def submit(self, ask, listener=None):
        self.listeners.append(listener)
        engine, row = self, len(self.listeners) - 1

        class Ticket:
            read = 3

            def cancel(self):
                engine.cancelled.append(row)

        return Ticket()


async def never():
    await asyncio.Event().wait()


def test_the_loop_is_woken_once_for_all_that_came():
    async def main():
        loop, woken, heard = asyncio.get_running_loop(), [], []
        relay = Relay(loop)
        inner = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *a: woken.append(1) or inner(*a)
        thread = threading.Thread(target=lambda: [relay.call(partial(heard.append, i)) for i in range(1000)])
        thread.start()
        thread.join()  # the loop stands still meanwhile
        await asyncio.sleep(0.01)
        relay.call(partial(heard.append, "one more"))
        await asyncio.sleep(0.01)
        return woken, heard

    woken, heard = asyncio.run(main())
    assert heard == [*range(1000), "one more"]
    assert len(woken) == 2


def test_nothing_is_told_to_a_loop_that_has_ended():
    async def main():
        return Relay(asyncio.get_running_loop())

    asyncio.run(main()).call(lambda: None)


def test_what_came_together_is_heard_together():
    async def main():
        engine = Engine()
        exchange = Exchange(engine, Relay(asyncio.get_running_loop()))
        exchange.submit([None, None])
        for text in "ab":
            for listener in engine.listeners:
                listener(Piece(text, ()))
        first = await exchange.next()
        exchange.close()
        return first, engine.cancelled

    heard, cancelled = asyncio.run(main())
    assert [(row, event.text) for row, event in heard] == [(0, "a"), (1, "a"), (0, "b"), (1, "b")]
    assert cancelled == [0, 1]


def test_one_that_is_patient_waits_for_an_end():
    async def main():
        engine = Engine()
        exchange = Exchange(engine, Relay(asyncio.get_running_loop()), patient=True)
        exchange.submit([None, None])
        waiting = asyncio.ensure_future(exchange.next())
        engine.listeners[0](Piece("a", ()))
        await asyncio.sleep(0.02)
        early = waiting.done()
        engine.listeners[1](Failed(DataError("no")))
        return early, await waiting

    early, heard = asyncio.run(main())
    assert not early
    assert [row for row, _ in heard] == [0, 1]


def test_no_row_is_submitted_after_the_end():
    async def main():
        engine = Engine()
        exchange = Exchange(engine, Relay(asyncio.get_running_loop()))
        exchange.close()
        with pytest.raises(RequestCancelledError, match="the caller left before its answer was complete"):
            exchange.submit([None, None, None])
        return engine.listeners

    assert asyncio.run(main()) == []


def test_a_row_during_whose_submission_the_end_came_is_given_up_and_no_further_one_submitted():
    async def main():
        engine = Engine()
        exchange = Exchange(engine, Relay(asyncio.get_running_loop()))
        taken, engine.submit = engine.submit, lambda *a: (exchange.close(), taken(*a))[1]
        exchange.submit([None, None, None])
        return len(engine.listeners), engine.cancelled

    assert asyncio.run(main()) == (1, [0])


def test_a_caller_that_leaves_while_rows_are_submitted_is_not_waited_for():
    async def main():
        engine, began = Engine(), threading.Event()
        exchange = Exchange(engine, Relay(asyncio.get_running_loop()))
        taken = engine.submit

        def slow(ask, listener=None):
            began.set()
            time.sleep(0.2)  # a long text is encoded
            return taken(ask, listener)

        async def receive():
            while not began.is_set():
                await asyncio.sleep(0.005)
            return {"type": "http.disconnect"}

        engine.submit = slow
        exchange.watch(receive)
        since = time.monotonic()
        with pytest.raises(RequestCancelledError, match="the caller left"):
            await exchange.during(asyncio.to_thread(exchange.submit, [None] * 100))
        waited = time.monotonic() - since
        exchange.close()
        await asyncio.sleep(0.5)
        return waited, len(engine.listeners), engine.cancelled

    waited, submitted, cancelled = asyncio.run(main())
    assert waited < 0.2
    assert (submitted, cancelled) == (1, [0])


def test_the_time_to_submit_rows_is_time_of_the_request():
    async def main():
        engine, asks = Engine(), []
        taken = engine.submit

        def slow(ask, listener=None):
            time.sleep(0.1)
            asks.append(ask)
            return taken(ask, listener)

        engine.submit = slow
        exchange = Exchange(engine, Relay(asyncio.get_running_loop()), deadline=0.25)
        exchange.watch(never)
        with pytest.raises(DeadlineError, match=r"not encoded within 0\.25 s, for the server has many long texts"):
            await exchange.during(asyncio.to_thread(exchange.submit, [Ask(None, {}, deadline=0.25)] * 100))
        await asyncio.sleep(0.3)
        with pytest.raises(DeadlineError, match="not encoded within"):
            exchange.check()
        exchange.close()
        return [ask.deadline for ask in asks]

    left = asyncio.run(main())
    assert len(left) <= 3
    assert left == sorted(left, reverse=True)
    assert 0 < left[-1] < 0.2


def token(likeliest=0):
    return Token(1, "a", -0.5, ((2, "b", -1.0),) * likeliest)


def test_what_was_read_is_counted_of_rows_that_never_end():
    async def main():
        engine = Engine()
        exchange = Exchange(engine, Relay(asyncio.get_running_loop()))
        exchange.submit([None, None, None])
        engine.listeners[0](Piece("a", (token(),)))
        engine.listeners[1](Failed(DataError("no")))
        exchange.close()
        return exchange.taken()

    assert asyncio.run(main()) == {0: Usage(3, 1), 1: Usage(3, 0), 2: Usage(3, 0)}


def test_what_was_told_is_counted_though_nobody_heard_it():
    async def main():
        engine = Engine()
        exchange = Exchange(engine, Relay(asyncio.get_running_loop()))
        exchange.submit([None, None, None])
        for _ in range(5):
            engine.listeners[0](Piece("aa", (token(), token())))
        engine.listeners[1](Piece("a", (token(),)))
        engine.listeners[1](Ended(None, "stop", Usage(7, 2)))
        exchange.close()
        return exchange.taken()

    assert asyncio.run(main()) == {0: Usage(3, 10), 1: Usage(7, 2), 2: Usage(3, 0)}


def test_a_stream_that_nobody_reads_is_given_up():
    async def main():
        engine = Engine()
        exchange = Exchange(engine, Relay(asyncio.get_running_loop()), unread=100)
        exchange.submit([None, None])
        for _ in range(3):  # one that is read goes on for ever
            for _ in range(33):
                engine.listeners[0](Piece("a", (token(2),)))
            await asyncio.sleep(0)
            assert len(await exchange.next()) == 33
        for _ in range(1000):
            engine.listeners[1](Piece("a", (token(2),)))
        kept = len(exchange._heard)
        await asyncio.sleep(0)
        with pytest.raises(
            Problem, match="more than 100 tokens of this stream were not read, and it was given up"
        ) as no:
            await exchange.next()
        return kept, len(exchange._heard), engine.cancelled, no.value.code, exchange.taken()[1]

    assert asyncio.run(main()) == (34, 0, [0, 1], "stream_not_read", Usage(3, 1000))


def test_a_caller_that_leaves_is_noticed():
    async def main():
        engine = Engine()
        exchange = Exchange(engine, Relay(asyncio.get_running_loop()))
        exchange.submit([None])

        async def receive():
            await asyncio.sleep(0.02)
            return {"type": "http.disconnect"}

        exchange.watch(receive)
        with pytest.raises(RequestCancelledError, match="the caller left before its answer was complete"):
            await exchange.next()
        return engine.cancelled

    assert asyncio.run(main()) == [0]


def test_a_request_that_is_broken_off_gives_its_rows_up():
    async def main():
        engine = Engine()
        exchange = Exchange(engine, Relay(asyncio.get_running_loop()))
        exchange.submit([None])
        exchange.watch(never)
        task = asyncio.ensure_future(exchange.next())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        exchange.close()
        return engine.cancelled

    assert asyncio.run(main()) == [0]

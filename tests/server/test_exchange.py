"""The bridge between the engine's thread and the event loop."""

import asyncio
import threading
from functools import partial

import pytest

from softprompt.errors import DataError, RequestCancelledError
from softprompt.server.exchange import Exchange, Relay
from softprompt.serving.asking import Failed, Piece


class Engine:
    """Takes rows in, and lets the test speak for it."""

    def __init__(self):
        self.listeners, self.cancelled, self.refuse = [], [], None

    def submit(self, ask, listener=None):
        self.listeners.append(listener)
        engine, row = self, len(self.listeners) - 1

        class Ticket:
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


def test_rows_submitted_after_the_end_are_given_up():
    async def main():
        engine = Engine()
        exchange = Exchange(engine, Relay(asyncio.get_running_loop()))
        exchange.close()
        exchange.submit([None, None, None])
        return engine.cancelled

    assert asyncio.run(main()) == [0]  # and no further one was submitted


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

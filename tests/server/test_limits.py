"""Buckets fill at an even rate, and a body that does not come is not waited for."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.server.health import Health
from softprompt.server.keyring import Key
from softprompt.server.limits import PACE, Bucket, Limiter, Patience
from softprompt.server.problems import Problem


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_minute_s_worth_is_there_at_once_and_then_it_comes_evenly(clock):
    bucket = Bucket(60, clock)
    for _ in range(60):
        assert bucket.wait(1) == 0
        bucket.draw(1)
    assert bucket.wait(1) == pytest.approx(1)
    clock.now += 2.5
    assert [bucket.wait(amount) for amount in (1, 2, 3)] == pytest.approx([0, 0, 0.5])


def test_a_debt_is_waited_off(clock):
    bucket = Bucket(120, clock)
    bucket.draw(180)
    assert bucket.wait(1) == pytest.approx(30.5)
    clock.now += 1e6
    assert bucket.wait(120) == 0
    assert bucket.wait(1e9) == 0  # no more than it can ever hold is waited for


def test_less_than_one_a_minute_is_one_and_a_long_wait(clock):
    bucket = Bucket(0.5, clock)
    assert bucket.wait(1) == 0
    bucket.draw(1)
    assert bucket.wait(1) == pytest.approx(120)


@given(rate=st.floats(1, 600), gaps=st.lists(st.floats(0, 20), max_size=200))
def test_no_minute_lets_through_more_than_two_minutes_worth(rate, gaps):
    clock = Clock()
    bucket, drawn = Bucket(rate, clock), []
    for gap in gaps:
        clock.now += gap
        if bucket.wait(1) == 0:
            bucket.draw(1)
            drawn.append(clock.now)
    for start in drawn:
        assert sum(start <= at < start + 60 for at in drawn) <= 2 * rate + 1


def test_keys_do_not_share_and_a_new_limit_counts_at_once(clock):
    limiter = Limiter(clock)
    one, two = Key("one", "", requests_per_minute=1), Key("two", "", requests_per_minute=1)
    assert limiter.enter(one) is None
    assert limiter.enter(two) is None
    assert limiter.enter(one) == ("requests", pytest.approx(60))
    assert limiter.enter(Key("one", "", requests_per_minute=10)) is None
    assert limiter.enter(Key("one", "")) is None


def test_a_request_that_is_refused_for_its_tokens_is_not_counted(clock):
    limiter, key = Limiter(clock), Key("one", "", requests_per_minute=1, tokens_per_minute=60)
    limiter.spend(key, 61)
    assert limiter.enter(key) == ("tokens", pytest.approx(2))
    clock.now += 2.1
    assert limiter.enter(key) is None


def received(messages, seconds, health=None, meanwhile=None):
    """Read a body through `Patience` of which each message takes some seconds; return what came, or the problem."""

    async def app(scope, receive, send):
        got.append(await receive())
        while got[-1].get("more_body"):
            got.append(await receive())
        got.append(await receive())

    async def receive():
        delay, message = messages.pop(0)
        if delay:
            await asyncio.sleep(delay)
        return message

    async def main():
        task = asyncio.ensure_future(Patience(app, seconds, health)({"type": "http"}, receive, None))
        if meanwhile is not None:
            await asyncio.sleep(0.02)
            meanwhile()
        await task

    got = []
    asyncio.run(main())
    return got


def part(body, more=True):
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_that_comes_is_passed_on_and_then_nobody_hurries():
    left = {"type": "http.disconnect"}
    messages = [(0, part(b"a")), (0.01, part(b"b", more=False)), (0.3, left)]
    assert received(messages, 0.2) == [part(b"a"), part(b"b", more=False), left]


def test_a_body_that_comes_fast_enough_may_be_long():
    large = [(0.03, part(b"x" * PACE)) for _ in range(4)]
    assert len(received([*large, (0, part(b"", more=False)), (0, {"type": "http.disconnect"})], 0.05)) == 6


def test_a_body_that_does_not_come_is_refused():
    with pytest.raises(
        Problem, match=r"the request's body did not arrive within 0\.05 s, or at 16,384 bytes"
    ) as refused:
        received([(0.03, part(b"a")), (0.03, part(b"b")), (0.03, part(b"c"))], 0.05)
    assert refused.value.status == 408


def test_a_server_that_ends_waits_for_no_body():
    health = Health()

    def end():
        assert len(health.coming) == 1
        health.draining = True
        health.hurry()

    with pytest.raises(Problem, match="the server is ending") as refused:
        received([(0, part(b"a")), (30, part(b"b", more=False))], 20, health, end)
    assert (refused.value.status, refused.value.code, refused.value.headers["Connection"]) == (
        503,
        "not_ready",
        "close",
    )
    assert health.coming == set()


def test_a_server_that_ends_takes_what_is_there():
    health, left = Health(draining=True), {"type": "http.disconnect"}
    assert len(received([(0, part(b"a")), (0, part(b"b", more=False)), (0.05, left)], 20, health)) == 3
    with pytest.raises(Problem, match="the server is ending"):
        received([(0, part(b"a")), (30, part(b"b", more=False))], 20, health)

"""Which requests are too late, and that those that have ended are not kept until they would be."""

from __future__ import annotations

from types import SimpleNamespace

from softprompt.serving.deadlines import Deadlines
from softprompt.serving.ticket import Request


def request(deadline):
    return Request(SimpleNamespace(name="a", deadline=deadline), None, None, None, None, lambda _: None)


def test_those_that_are_late_come_in_order_and_once():
    deadlines = Deadlines()
    each = [request(seconds) for seconds in (3.0, 1.0, None, 2.0)]
    for one in each:
        deadlines.add(one)
    each[3].ended = True
    assert list(deadlines.passed(each[1].due - 0.5)) == []
    assert list(deadlines.passed(each[0].due)) == [each[1], each[0]]
    assert list(deadlines.passed(each[0].due)) == []


def test_what_has_ended_is_not_kept_until_it_would_be_due():
    deadlines, kept = Deadlines(), [request(900.0 - number) for number in range(50)]
    for number in range(20_000):
        one = request(600.0)
        deadlines.add(one)
        one.ended = number % 2 == 0  # the others are let go of before they end
        if number % 400 == 0:
            deadlines.add(kept[number // 400])
    del one
    assert len(deadlines._heap) <= 1025
    assert list(deadlines.passed(kept[0].due)) == kept[::-1]


def test_many_that_have_not_ended_are_kept_and_looked_through_seldom(monkeypatch):
    deadlines, kept, sweeps = Deadlines(), [request(600.0) for _ in range(10_000)], []
    sweep = Deadlines._sweep
    monkeypatch.setattr(Deadlines, "_sweep", lambda self: (sweeps.append(len(self._heap)), sweep(self)))
    for one in kept:
        deadlines.add(one)
    assert len(sweeps) <= 5
    assert set(deadlines.passed(kept[-1].due + 1)) == set(kept)

"""Who comes into the next pass: rows of like length, and nobody passed over for long."""

from __future__ import annotations

import random
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.serving.asking import Ask
from softprompt.serving.engine import Engine
from softprompt.serving.ticket import Request
from softprompt.serving.waiting import Waiting
from softprompt.testing.conformance import rows

FILM = {"text": "a gripping film"}
NO_PROMPT = SimpleNamespace(carried=lambda *, shared: ())


def request(name, width, *, most=None):
    """A request whose row has so many tokens; with `most` its answer is written."""
    writing = None if most is None else SimpleNamespace(most=most, tokens=[])
    row = SimpleNamespace(ids=(5,) * width)
    return Request(SimpleNamespace(name=name, deadline=None), NO_PROMPT, row, writing, None, lambda _: None)


def names(found):
    return [each.ask.name for each in found]


def test_a_pass_holds_rows_of_like_length_within_its_tokens():
    waiting = Waiting(rows=8, tokens=100)
    rng = random.Random(0)
    widths = [rng.choice([10, 11, 48, 50]) for _ in range(32)]
    for number, width in enumerate(widths):
        waiting.add(request(f"n{number}", width))
    padded = 0
    while waiting:
        found = [each.width for each in waiting.take(0)]
        assert len(found) <= 8
        assert len(found) == 1 or max(found) * len(found) <= 100
        padded += max(found) * len(found)
    assert padded < 1.1 * sum(widths)


def test_a_row_longer_than_a_pass_goes_alone():
    waiting = Waiting(rows=8, tokens=100)
    for name, width in (("long", 400), ("a", 10), ("b", 390)):
        waiting.add(request(name, width))
    assert names(waiting.take(0)) == ["long"]
    assert names(waiting.take(0)) == ["a"]
    assert names(waiting.take(0)) == ["b"]
    assert waiting.take(0) == []


def test_rows_to_be_written_wait_for_a_place_and_hold_up_nobody():
    waiting = Waiting(rows=8, tokens=1000)
    for number in range(5):
        waiting.add(request("writes", 10, most=8))
        waiting.add(request(f"reads{number}", 10))
    found = waiting.take(2)
    assert sum(each.writing is not None for each in found) == 2
    assert sum(each.writing is None for each in found) == 5
    assert waiting.take(0) == []
    assert len(waiting) == 3
    assert len(waiting.take(3)) == 3


def test_a_smaller_pass_is_given_where_rows_in_flight_wait():
    waiting = Waiting(rows=8, tokens=1000)
    for _ in range(8):
        waiting.add(request("a", 10))
    assert len(waiting.take(0, 35)) == 3
    assert len(waiting.take(0, 1)) == 1  # one always


def test_rows_of_other_lengths_come_later_than_make_a_pass_mostly_padding():
    waiting = Waiting(rows=64, tokens=1000)
    for width in (10, 11, 12, 100, 10, 90):
        waiting.add(request("a", width))
    assert [each.width for each in waiting.take(0)] == [10, 11, 12, 10]
    assert [each.width for each in waiting.take(0)] == [100, 90]


def test_rows_of_other_lengths_share_a_pass_that_runs_without_padding():
    waiting = Waiting(rows=16, tokens=4096, unpadded=True)
    widths = [14, 20, 30, 45] * 4 + [200] * 2
    for number, width in enumerate(widths):
        waiting.add(request(f"n{number}", width))
    assert sorted(each.width for each in waiting.take(0)) == sorted(widths[:16])
    assert [each.width for each in waiting.take(0)] == [200, 200]


def test_names_share_a_pass_and_the_one_that_waited_longest_begins_it():
    waiting = Waiting(rows=4, tokens=1000)
    for _ in range(40):
        waiting.add(request("flood", 20))
    assert names(waiting.take(0)) == ["flood"] * 4
    for name, width in (("rare", 90), ("some", 20), ("some", 20)):
        waiting.add(request(name, width))
    assert names(waiting.take(0)) == ["rare"]
    assert sorted(names(waiting.take(0))) == ["flood", "flood", "some", "some"]


def still_waits(first, names, *, most=None, places=lambda number: 0):
    """Whether `first`, put among short rows of `names`, waits while each who was served comes again a pass later."""
    waiting = Waiting(rows=64, tokens=4096)
    for name in [*names[0], first.ask.name]:
        waiting.add(request(name, 20, most=most))
    waiting.add(first)
    ahead = [*names[1:]]
    for number in range(400):
        found = waiting.take(places(number))
        if first in found:
            return False
        ahead.append([each.ask.name for each in found])
        for name in ahead.pop(0):
            waiting.add(request(name, 20, most=most))
    return True


def test_a_row_unlike_the_others_of_its_name_does_not_wait_for_ever():
    names = [[f"g{group}-{number}" for number in range(8)] for group in range(2)]
    assert not still_waits(request("some", 1000), names)
    assert not still_waits(request("some", 1000, most=8), names, most=8, places=lambda number: 64)


def test_a_row_to_be_written_does_not_wait_for_ever_where_places_come_in_step():
    for turn in range(4):
        waiting = Waiting(rows=8, tokens=4096)
        long = request("some", 1000, most=8)
        waiting.add(request("some", 20, most=8))
        waiting.add(long)
        served = False
        for number in range(400):
            for name in (f"w{number}", f"w{number}b", "some"):
                waiting.add(request(name, 20, most=8))
            waiting.add(request("reads", 20))
            served = served or long in waiting.take(4 if number % 4 == turn else 0)
        assert served, f"places in every fourth pass, from the {turn}th"


def test_what_is_put_back_is_first():
    waiting = Waiting(rows=2, tokens=1000)
    for name in "abcd":
        waiting.add(request(name, 10))
    first = waiting.take(0)
    waiting.put_back(first)
    assert waiting.take(0) == first


def test_what_is_put_back_and_finds_no_place_keeps_nobody_waiting():
    waiting = Waiting(rows=64, tokens=4096)
    waiting.put_back([request("late", 2200, most=4096) for _ in range(31)])  # more tokens than come into view
    for _ in range(5):
        waiting.add(request("reads", 20))
    assert names(waiting.take(0)) == ["reads"] * 5
    assert [names(waiting.take(1)) for _ in range(31)] == [["late"]] * 31
    assert not waiting


def test_what_is_taken_out_or_cleared_is_gone():
    waiting = Waiting(rows=1, tokens=10)
    each = [request("a", 10) for _ in range(9)] + [request("w", 10, most=4)]
    for one in each:
        waiting.add(one)
    assert waiting.take(1) == [each[0]]
    assert waiting.discard(each[1])  # in view
    assert waiting.discard(each[8])  # not yet
    assert waiting.discard(each[9])
    assert not waiting.discard(each[0])
    assert set(waiting.clear()) == set(each[2:8])
    assert not waiting


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 80), st.booleans()), max_size=120), st.integers(1, 9))
def test_everything_is_taken_once(asked, places):
    waiting = Waiting(rows=6, tokens=90)
    each = [request(name, width, most=8 if writes else None) for name, width, writes in asked]
    for one in each:
        waiting.add(one)
    got = []
    while waiting:
        found = waiting.take(places)
        assert found
        got += found
    assert len(got) == len(each)
    assert set(got) == set(each)


@pytest.mark.parametrize("kind", ["labels", "text"])
def test_a_flood_of_one_name_delays_another_by_a_few_passes(gated, kinds, kind):
    flood, rare = Ask(kinds[kind], FILM, "flood", max_tokens=1), Ask(kinds["suffix"], FILM, "rare")
    with Engine(gated, rows=8, queue=3000) as engine:
        gated.gate.clear()
        for _ in range(1000):
            engine.submit(flood)
        assert gated.entered.wait(30)
        done = []
        ticket = engine.submit(rare, lambda event: done.append(len(gated.passes)))
        gated.gate.set()
        ticket.result(60)
        assert done[0] <= 6
        engine.close(drain=False)


def test_places_in_a_full_flight_are_filled_several_at_once(gated, kinds):
    asks = [Ask(kinds["long text"], FILM, max_tokens=8 + number % 9) for number in range(96)]
    with Engine(gated, rows=32) as engine:
        for ticket in [engine.submit(ask) for ask in asks]:
            ticket.result(60)
    joined = [len(each) for each in gated.passes]
    assert sum(joined) == 96
    assert len(joined) <= 32  # one by one they would take two passes in three


def test_rows_in_flight_keep_their_pace_while_many_come(backbone, kinds):
    with Engine(backbone, rows=32, queue=3000, pause=0.0) as engine:
        engine.submit(Ask(kinds["labels"], FILM)).result(30)  # so that something is measured
        order = []
        writes = engine.submit(Ask(kinds["long text"], FILM, "writes"), lambda event: order.append("token"))
        while not order:
            pass
        asks = [Ask(kinds["labels"], row, "reads") for row in rows(150)]
        reads = [engine.submit(ask, lambda event: order.append("read")) for ask in asks]
        writes.result(60)
        at = [place for place, what in enumerate(order) if what == "token"]
        assert max(after - before for before, after in pairwise(at)) < 75
        assert all(each.result(60) for each in reads)

"""Whose turn it is: nothing lost, nothing twice, nobody waits for one who asks for much."""

from __future__ import annotations

from collections import Counter, deque
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.serving.turns import Turns


def drawn(turns: Turns[str]) -> list[str]:
    return [turns.draw() for _ in range(len(turns))]


def filled(asked: dict[str, int], cost: float = 10, quantum: float = 10) -> Turns[str]:
    turns = Turns[str](quantum)
    for name, count in asked.items():
        for number in range(count):
            turns.add(name, f"{name} {number}", cost)
    return turns


def test_names_take_turns_and_within_a_name_the_first_is_first():
    assert drawn(filled({"a": 3, "b": 1, "c": 2})) == ["a 0", "b 0", "c 0", "a 1", "c 1", "a 2"]


def test_a_turn_is_as_many_items_as_its_work_allows():
    assert drawn(filled({"a": 4, "b": 4}, cost=5)) == ["a 0", "a 1", "b 0", "b 1", "a 2", "a 3", "b 2", "b 3"]


def test_an_item_that_costs_more_than_a_turn_is_paid_for_in_later_turns():
    turns = filled({"small": 6})
    turns.add("large", "large 0", 40)
    turns.add("large", "large 1", 40)
    order = drawn(turns)
    assert order.index("large 0") == 1  # it goes at once, into debt
    assert order.index("large 1") >= 5  # and waits until others have had as much


def test_a_new_name_goes_before_those_who_have_been_asking_for_long():
    turns = filled({f"busy{n}": 100 for n in range(50)})
    for _ in range(75):
        turns.draw()
    turns.add("rare", "rare 0", 10)
    assert turns.draw() == "rare 0"


def test_coming_anew_all_the_time_gains_nothing():
    turns = filled({"steady": 100})
    got = Counter()
    for number in range(60):
        if not any(item.startswith("sly") for line in turns._lines.values() for item in line.items):
            turns.add("sly", f"sly {number}", 10)
        got[turns.draw().split()[0]] += 1
    assert abs(got["steady"] - got["sly"]) <= 2


def test_what_is_taken_out_is_not_drawn():
    turns = filled({"a": 3, "b": 1})
    assert turns.discard("a", "a 1")
    assert not turns.discard("a", "a 1")
    assert not turns.discard("nobody", "a 0")
    assert drawn(turns) == ["a 0", "b 0", "a 2"]
    with pytest.raises(IndexError, match="nothing is waiting"):
        turns.draw()


def test_names_that_have_gone_are_forgotten():
    turns = filled({f"n{n}": 1 for n in range(1000)})
    drawn(turns)
    for round_ in range(3):
        for number in range(2):
            turns.add("last", f"last {round_} {number}", 10)
        drawn(turns)
    assert len(turns._lines) <= 1


@pytest.mark.parametrize("cost", [10, 1000])
def test_names_that_each_ask_once_are_forgotten(cost):
    turns = Turns[int]()
    for number in range(1000):
        turns.add(f"user {number}", number, cost)
        if number % 3:
            assert turns.draw() == number
        else:
            assert turns.discard(f"user {number}", number)
    assert len(turns._lines) + len(turns._new) + len(turns._old) <= 3


def test_a_draw_costs_the_same_with_thousands_of_names():
    def seconds(names: int) -> float:
        turns = filled({f"n{n}": 4 for n in range(names)})
        start = perf_counter()
        for _ in range(1000):
            turns.draw()
        return perf_counter() - start

    few, many = (min(seconds(names) for _ in range(3)) for names in (300, 10_000))
    assert many < 10 * few


ITEMS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 60)), min_size=1, max_size=150)


@settings(max_examples=60, deadline=None)
@given(ITEMS, st.integers(1, 40), st.data())
def test_nothing_is_lost_nothing_comes_twice_and_names_keep_their_order(items, quantum, data):
    turns = Turns[tuple[str, int]](quantum)
    expected: dict[str, deque[int]] = {}
    out = 0
    for number, (name, cost) in enumerate(items):
        turns.add(name, (name, number), cost)
        expected.setdefault(name, deque()).append(number)
        if len(turns) and data.draw(st.booleans()):
            name, got = turns.draw()
            assert expected[name].popleft() == got
            out += 1
    while len(turns):
        name, got = turns.draw()
        assert expected[name].popleft() == got
        out += 1
    assert out == len(items)
    assert not any(expected.values())


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 8), st.integers(1, 50), st.integers(1, 60), st.data())
def test_between_names_that_always_ask_the_work_differs_by_a_turn_and_an_item(names, quantum, most, data):
    turns = Turns[tuple[str, int, int]](quantum)
    count = 0
    for name in range(names):
        for _ in range(80):
            cost = data.draw(st.integers(1, most)) if count < 40 else 1 + count % most
            turns.add(str(name), (str(name), cost, count), cost)
            count += 1
    work = Counter({str(name): 0 for name in range(names)})
    for _ in range(names * 20):
        name, cost, _ = turns.draw()
        work[name] += cost
    assert max(work.values()) - min(work.values()) <= 2 * (quantum + most)


def test_no_name_waits_longer_than_a_turn_of_every_other():
    turns = filled({"flood": 1000, **{f"n{n}": 1 for n in range(20)}}, cost=10, quantum=30)
    order = drawn(turns)
    assert max(order.index(f"n{n} 0") for n in range(20)) <= 20 + 3

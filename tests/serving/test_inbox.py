"""Who finds a place in the queue."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from softprompt.errors import EngineClosedError, QueueFullError
from softprompt.serving.inbox import Inbox


def inbox(room):
    return Inbox(room, float)


def reserved(queue, name, most=10_000):
    """How many places `name` finds."""
    for count in range(most):
        try:
            queue.reserve(name)
        except QueueFullError:
            return count
    return most


def test_a_name_that_has_taken_all_places_leaves_some_to_others():
    queue = inbox(1024)
    assert reserved(queue, "flood") == 1024
    assert reserved(queue, "polite") == 64
    assert reserved(queue, "another") == 32
    with pytest.raises(QueueFullError, match=r"1120 requests are waiting, as many as may; ask again in 256\.0 s"):
        queue.reserve("flood")
    queue.leave(["flood"] * 96)
    assert reserved(queue, "flood") == 0  # others' places are not given away
    assert queue.waiting == 1024


def test_as_many_names_as_there_are_spare_places_find_one():
    queue = inbox(80)
    reserved(queue, "flood")
    assert [reserved(queue, f"n{number}", most=1) for number in range(12)] == [1] * 10 + [0] * 2


def test_a_short_queue_has_a_spare_place_too():
    queue = inbox(1)
    assert [reserved(queue, name) for name in ("a", "b", "c")] == [1, 1, 0]


def test_places_that_are_left_are_found_again_and_nothing_is_kept_of_the_name():
    queue = inbox(8)
    for number in range(100):
        queue.reserve(f"n{number}")
        queue.leave([f"n{number}"])
    assert queue.waiting == 0
    assert len(queue._places) == 0


def test_a_request_that_comes_too_late_leaves_its_place():
    queue = inbox(8)
    queue.reserve("a")
    queue.close(drain=False)
    with pytest.raises(EngineClosedError, match="takes no more requests"):
        queue.put(SimpleNamespace(ask=SimpleNamespace(name="a")))
    assert (queue.waiting, len(queue._places)) == (0, 0)


def test_one_who_waits_is_told_whether_something_came():
    mail = inbox(4)
    assert not mail.comes(0.01)
    mail.reserve("a")
    mail.put(SimpleNamespace(ask=SimpleNamespace(name="a")))
    assert mail.comes(10)
    mail.collect(idle=True, gather=0, enough=1)
    assert not mail.comes(0.01)


@pytest.mark.parametrize(("gather", "together"), [(1.0, 4), (0.02, 1)])
def test_an_idle_engine_waits_for_company_as_long_as_it_keeps_coming(gather, together):
    mail = inbox(8)

    def ask_in_turn():
        for number in range(4):
            mail.reserve(f"n{number}")
            mail.put(SimpleNamespace(ask=SimpleNamespace(name=f"n{number}")))
            time.sleep(0.03)

    asker = threading.Thread(target=ask_in_turn)
    asker.start()
    began = time.monotonic()
    found = mail.collect(idle=True, gather=gather, enough=8)
    asker.join()
    assert len(found.asked) == together
    assert time.monotonic() - began < 0.9  # company that does not come is not waited for to the end


def test_enough_company_is_not_waited_for():
    mail = inbox(8)
    mail.reserve("a")
    mail.put(SimpleNamespace(ask=SimpleNamespace(name="a")))
    began = time.monotonic()
    assert len(mail.collect(idle=True, gather=10, enough=1).asked) == 1
    assert time.monotonic() - began < 1

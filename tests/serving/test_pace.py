"""How fast an engine finds itself to be."""

from __future__ import annotations

import pytest

from softprompt.serving.pace import Mean, Pace


def test_a_mean_follows_what_is_measured():
    mean = Mean()
    assert mean.value is None
    for _ in range(50):
        mean.add(1.0)
    mean.add(2.0)
    assert 1.0 < mean.value < 1.5


def test_new_rows_hold_up_those_in_flight_for_two_steps_or_the_pause():
    pace = Pace(pause=0.1)
    assert pace.allowance(4096) == 512  # nothing is measured yet
    pace.passed(1000, 1.0)
    assert pace.allowance(4096) == 100
    pace.stepped(0.2)
    assert pace.allowance(4096) == 400
    assert pace.allowance(300) == 300
    slow = Pace(pause=0.0)
    slow.passed(10, 100.0)
    assert slow.allowance(4096) == 1


def test_time_without_work_does_not_count_as_slow():
    pace, now = Pace(pause=0.1), 0.0
    pace.begins(now)
    for _ in range(2000):
        now += 0.02
        pace.ended(1, now)
    assert pace.wait_for(250) == pytest.approx(5.0, rel=0.05)
    for _ in range(5):
        now += 3600
        pace.begins(now)
        for _ in range(3):
            now += 0.02
            pace.ended(1, now)
        assert pace.wait_for(250) == pytest.approx(5.0, rel=0.05)


def test_an_engine_that_takes_long_for_each_is_found_slow():
    pace, now = Pace(pause=0.1), 0.0
    pace.begins(now)
    for _ in range(20):
        now += 15.0
        pace.ended(1, now)
    assert pace.wait_for(3) == pytest.approx(45.0, rel=0.05)


def test_the_wait_follows_the_rate_at_which_requests_end():
    pace = Pace(pause=0.1)
    assert pace.wait_for(100) == 1.0
    for number in range(101):
        pace.ended(1, 50.0 + number / 100)
    assert pace.wait_for(100) == pytest.approx(1.0, rel=0.1)
    assert pace.wait_for(1) == 0.1
    assert pace.wait_for(10**6) == 60.0
    for number in range(3000):  # it has become slower, and that is seen
        pace.ended(1, 51.0 + number / 10)
    assert pace.wait_for(100) == pytest.approx(10.0, rel=0.3)


def test_long_passes_are_worth_waiting_for_company():
    pace = Pace(pause=0.1)
    assert pace.company(0.002) == 0.002
    pace.passed(100, 0.01)
    assert pace.company(0.002) == 0.002
    for _ in range(100):
        pace.passed(500, 0.2)
    assert pace.company(0.002) == pytest.approx(0.02)

"""Timing turn by turn: what slows the machine for a while slows every side alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

Step = Callable[[int], object]


Clock = Callable[[], float]


def turn_by_turn(
    sides: Mapping[str, Step], *, rounds: int, steps: int, warmup: int = 1, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Let every side do the same numbered steps, in turns; return seconds a step, one figure a round.

    The first steps warm up and are not counted; each round another side begins. The clock is the wall's, unless
    another is given: `time.process_time` counts the CPU time of all threads.
    """
    for step in sides.values():
        for number in range(warmup):
            step(number)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        first = warmup + turn * steps
        for name in _rotated(list(sides), turn):
            began = clock()
            for number in range(first, first + steps):
                sides[name](number)
            seconds[name].append((clock() - began) / steps)
    return seconds


def median_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """The median, over the rounds, of how many times longer `slow` took."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def _rotated(names: list[str], by: int) -> list[str]:
    at = by % len(names)
    return names[at:] + names[:at]

"""Timing turn by turn: what slows the machine for a while slows every side alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from softprompt.backbones.hardware import leave_cores

Step: TypeAlias = Callable[[int], object]
"""Does the numbered step of one side."""
Clock: TypeAlias = Callable[[], float]
"""Seconds that only rise."""


def turn_by_turn(
    sides: Mapping[str, Step], *, rounds: int, steps: int, warmup: int = 1, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Let every side do the same numbered steps, in turns; each round another side begins.

    Between turns the cores are left, for a side that computes in a thread of its own is slowed by an idle team.

    Args:
        sides: what does a step, by name.
        rounds: turns of each side.
        steps: in a turn.
        warmup: first steps, which are not counted.
        clock: the wall's, unless another is given: `time.process_time` counts the CPU time of all threads.

    Returns:
        Seconds a step of each side, one figure a round.

    >>> now = iter(range(100))
    >>> turn_by_turn({"a": lambda n: n, "b": lambda n: n}, rounds=2, steps=1, clock=lambda: float(next(now)))
    {'a': [1.0, 1.0], 'b': [1.0, 1.0]}
    """
    for step in sides.values():
        for number in range(warmup):
            step(number)
        leave_cores()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        first = warmup + turn * steps
        for name in _rotated(list(sides), turn):
            began = clock()
            for number in range(first, first + steps):
                sides[name](number)
            seconds[name].append((clock() - began) / steps)
            leave_cores()
    return seconds


def _rotated(names: Sequence[str], by: int) -> list[str]:
    at = by % len(names)
    return [*names[at:], *names[:at]]

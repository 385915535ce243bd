"""Clients of an engine in its own process: all rows at once, or threads of which each asks when it was answered."""

from __future__ import annotations

import statistics
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from softprompt.serving.asking import Ask, Ended
from softprompt.serving.engine import Engine
from softprompt.serving.observing import Step, Unobserved


class Company(Unobserved):
    """Counts how many rows and how many prompts share a turn of an engine.

    Attributes:
        work: whose turns are counted now; the last one's is told when its answers are out already.
    """

    def __init__(self) -> None:
        self.work = ""
        self._steps: dict[str, list[Step]] = defaultdict(list)

    def step(self, step: Step) -> None:
        self._steps[self.work].append(step)

    def means(self, work: str) -> dict[str, float]:
        """Rows and distinct prompts a turn."""
        steps = self._steps[work]
        return {name: statistics.mean(getattr(step, name) for step in steps) for name in ("rows", "prompts")}


def all_at_once(engine: Engine, asks: Iterable[Ask]) -> list[Ended]:
    """Take in everything, and wait for every answer."""
    tickets = [engine.submit(ask) for ask in asks]
    return [ticket.result() for ticket in tickets]


def closed_loop(clients: int, work: Sequence[Any], answer: Callable[[Any], Any]) -> list[Any]:
    """Let threads take pieces of work, each its next one when the last was answered; answers in the order of work."""
    left, found, failed = deque(enumerate(work)), [None] * len(work), []

    def client() -> None:
        try:
            while True:
                number, piece = left.popleft()
                found[number] = answer(piece)
        except IndexError:
            return
        except Exception as error:  # noqa: BLE001 - raised where all are waited for
            failed.append(error)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return found

"""The cells of one run of a comparison: which is next, what has ended, how long the rest takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from softprompt.experiments.compare.cells import Ask, said
from softprompt.experiments.compare.hours import Hours, in_words
from softprompt.experiments.compare.ledger import Ledger
from softprompt.experiments.compare.outcomes import CompareCell, Outcome
from softprompt.experiments.compare.plan import Layout
from softprompt.progress import say

Asking = Callable[[CompareCell, tuple[str, ...]], Ask]
"""Makes of a settled cell, with notes for its reader, what its process is told."""


class Queue:
    """Cells in their order, each given out once what it follows has ended.

    Args:
        layout: all cells.
        ledger: those that have ended, and where outcomes are written.
        hours: how long cells take.
        asking: makes what the process of a cell is told.
        budget: seconds after which no cell is given out; None: no bound.
    """

    def __init__(self, layout: Layout, ledger: Ledger, hours: Hours, asking: Asking, budget: float | None) -> None:
        self._layout, self._ledger, self._hours, self._asking = layout, ledger, hours, asking
        self._budget, self._began = budget, time.monotonic()
        self._waiting = [cell for cell in layout if ledger.state(cell) == "to do"]
        self._running: dict[CompareCell, CompareCell] = {}

    def left(self) -> float:
        """Return an estimate of the seconds that are left; 0 where nothing is to be done."""
        known = tuple(self._ledger.outcomes())
        return sum(self._hours.of([*self._waiting, *self._running.values()], known).values())

    def take(self) -> Ask | None:
        """Give out the next cell that can begin; `None`: none can now."""
        if self._over:
            return None
        for planned in tuple(self._waiting):
            chosen, cell = self._ledger.chosen(planned), self._ledger.settled(planned)
            if chosen is None or cell is None:
                continue
            self._waiting.remove(planned)
            if self._ledger.ended(cell):
                continue
            if chosen.rate is not None:
                return self._begun(planned, self._asking(cell, chosen.notes))
            origin = self._ledger.origin(cell)
            self.keep(Outcome(cell, failed=chosen.failed, again=chosen.again, origin=origin))
        return None

    def keep(self, outcome: Outcome) -> None:
        """Write what a cell found, and say it.

        Raises:
            StorageError: the folder cannot be written.
        """
        self._ledger.keep(outcome)
        self._running.pop(outcome.cell, None)
        say(f"compare, {said(outcome.cell)}: {_news(outcome)}")

    def tell_end(self) -> None:
        """Say what is left where the time was over."""
        if self._waiting and self._over:
            say(f"the time is over with {len(self._waiting)} cells to do; the same command goes on")

    def _begun(self, planned: CompareCell, ask: Ask) -> Ask:
        self._running[ask.cell] = planned
        total = len(self._layout)
        number = total - len(self._waiting)
        say(f"compare, cell {number} of {total}: {said(ask.cell)}; about {in_words(self.left())} left")
        return ask

    @property
    def _over(self) -> bool:
        return self._budget is not None and time.monotonic() - self._began >= self._budget


def _news(outcome: Outcome) -> str:
    if outcome.failed:
        return f"failed: {outcome.failed}"
    if not outcome.gold:
        return f"validation loss {outcome.validation_loss:.4f}, {in_words(outcome.seconds)}"
    right = statistics.fmean(a == b for a, b in zip(outcome.gold, outcome.predicted, strict=True))
    return f"accuracy {100 * right:.1f}, {in_words(outcome.seconds)}"

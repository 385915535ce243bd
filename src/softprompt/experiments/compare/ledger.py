"""What has ended of a comparison, what each search chose, and so which cell may run next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from softprompt.experiments.compare.cells import CellFolder
from softprompt.experiments.compare.outcomes import CompareCell, Outcome
from softprompt.experiments.compare.plan import Chosen, Layout

State = Literal["done", "failed", "to do"]


class Ledger:
    """The outcomes of a layout's cells, read once from their folder and added to as cells end.

    Args:
        layout: the cells.
        folder: where outcomes stand.
        origins: what an outcome must have been made from to count, by task.
    """

    def __init__(self, layout: Layout, folder: CellFolder, origins: Mapping[str, Mapping[str, Any]]) -> None:
        self._layout, self._folder, self._origins = layout, folder, origins
        self._read: dict[CompareCell, Outcome] = {}
        self._tried: set[CompareCell] = set()

    def origin(self, cell: CompareCell) -> Mapping[str, Any]:
        """Return what an outcome of a cell must have been made from."""
        return self._origins[cell.task]

    def chosen(self, cell: CompareCell) -> Chosen | None:
        """Return the rate of a planned cell, with how it was chosen; `None` while its search has not ended."""
        searches = self._layout.searches(cell)
        if not searches:
            return Chosen(cell.rate)
        trials = [self._read[each] for each in searches if self.ended(each)]
        return Chosen.of(trials) if len(trials) == len(searches) else None

    def settled(self, cell: CompareCell) -> CompareCell | None:
        """Return a planned cell at the rate that its search chose; `None` while the search has not ended."""
        chosen = self.chosen(cell)
        return None if chosen is None else cell if chosen.rate is None else replace(cell, rate=chosen.rate)

    def outcome(self, cell: CompareCell) -> Outcome | None:
        """Return what a settled cell found, in this run or an earlier one.

        Raises:
            StorageError: its file is damaged.
        """
        if cell not in self._read:
            found = self._folder.read(cell, self._origins[cell.task])
            if found is None:
                return None
            self._read[cell] = found
        return self._read[cell]

    def ended(self, cell: CompareCell) -> bool:
        """Tell whether a settled cell needs no run: it has ended, and is not to be tried again in this one."""
        found = self.outcome(cell)
        return found is not None and (not found.again or cell in self._tried)

    def state(self, planned: CompareCell) -> State:
        """Return how a planned cell stands."""
        cell = self.settled(planned)
        if cell is None or not self.ended(cell):
            return "to do"
        return "failed" if self._read[cell].failed else "done"

    def keep(self, outcome: Outcome) -> None:
        """Write an outcome.

        Raises:
            StorageError: the folder cannot be written.
        """
        self._folder.keep(outcome)
        self._read[outcome.cell] = outcome
        self._tried.add(outcome.cell)

    def outcomes(self) -> Iterator[Outcome]:
        """Every outcome of the layout, in its order."""
        for planned in self._layout:
            cell = self.settled(planned)
            found = None if cell is None else self.outcome(cell)
            if found is not None:
                yield found

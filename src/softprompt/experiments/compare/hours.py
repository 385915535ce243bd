"""How long cells take: by cells that have ended, else by what each family of methods does with a row."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from softprompt.experiments.compare.outcomes import CompareCell, Outcome
from softprompt.experiments.compare.plan import SEARCH_SHARE, Layout

PASSES: Mapping[str, float] = {"free": 0.0, "probe": 1.0, "prompt": 12.0, "adapter": 13.0, "weights": 16.0}
"""Forward passes over a training row until validation stops improving, by family; a backward pass counts as two."""
_CONTEXT: Mapping[str, float] = {"few-shot-4": 1.5, "few-shot-16": 2.0, "few-shot-max": 4.0}
"""How much more a row costs behind its examples, whose keys and values are kept."""
_START, _MEASURING = 15.0, 45.0
"""Seconds of a cell to import and load, and to measure speed and forgetting."""
_FLOPS = 5e10
"""Floating-point operations a second of a small CPU, where nothing was measured."""


@dataclass(frozen=True)
class Size:
    """How much there is of a task.

    Attributes:
        train, validation, test: rows that a comparison uses.
        tokens: of a row, about.
    """

    train: int
    validation: int
    test: int
    tokens: float


@dataclass(frozen=True)
class Hours:
    """What cells will take.

    Attributes:
        layout: the cells.
        sizes: of the tasks.
        token: seconds of a token in a forward pass.
        bound: seconds of a training at most; None: no bound.
        examples: rows learned from at most; None: no bound.
    """

    layout: Layout
    sizes: Mapping[str, Size]
    token: float
    bound: float | None = None
    examples: int | None = None

    def table(self, cell: CompareCell) -> float:
        """Return the seconds of a cell by the rate table alone."""
        size, family = self.sizes[cell.task], self.layout.family(cell)
        train = cell.rows or size.train
        passes = PASSES[family] * (SEARCH_SHARE if cell.role == "search" else 1.0)
        learned = train * passes if self.examples is None else min(train * passes, 3.0 * self.examples)
        training = learned * size.tokens * self.token
        validation = min(cell.rows, size.validation) if cell.rows else size.validation
        judged = validation + (0 if cell.role == "search" else size.test)
        answering = judged * _CONTEXT.get(cell.method, 1.0) * size.tokens * self.token
        kept = training if self.bound is None else min(training, self.bound)
        return _START + kept + answering + (_MEASURING if self.layout.measured(cell) else 0.0)

    def of(self, cells: Iterable[CompareCell], ended: Iterable[Outcome]) -> dict[CompareCell, float]:
        """Return the seconds of cells, the table held against the cells that have ended.

        What the same method took counts before what its family took, and that before what all took.

        Args:
            cells: those that are asked about.
            ended: those whose seconds are known.
        """
        ratios = self._ratios(ended)
        found = {}
        for cell in cells:
            keys = [(cell.method, cell.readout), self.layout.family(cell), ""]
            known = next((ratios[key] for key in keys if key in ratios), [1.0])
            found[cell] = self.table(cell) * statistics.median(known)
        return found

    def _ratios(self, ended: Iterable[Outcome]) -> dict[object, list[float]]:
        """Seconds that were taken for each second of the table, by method, family, and in all."""
        ratios: dict[object, list[float]] = {}
        for outcome in ended:
            if outcome.failed is None and outcome.seconds:
                cell, ratio = outcome.cell, outcome.seconds / self.table(outcome.cell)
                for key in ((cell.method, cell.readout), self.layout.family(cell), ""):
                    ratios.setdefault(key, []).append(ratio)
        return ratios


def seconds_a_token(measured: float | None, parameters: int) -> float:
    """Return the seconds of a token in a forward pass: as measured, else two operations a parameter."""
    return measured or 2 * parameters / _FLOPS


def in_words(seconds: float) -> str:
    """Write a time as one says it.

    >>> in_words(40), in_words(600), in_words(9000)
    ('40 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

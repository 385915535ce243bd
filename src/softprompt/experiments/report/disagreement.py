"""Where two methods of a comparison disagree, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from softprompt.evaluation.metrics import confusion_matrix
from softprompt.evaluation.tables import shortened
from softprompt.experiments.compare.outcomes import Outcome
from softprompt.experiments.report.folder import Entry, TaskOutcomes
from softprompt.experiments.report.names import Key
from softprompt.experiments.report.statistics import disagreements

EXAMPLES = 20
"""Rows shown at most, half of them for each of the two methods that is right."""
WIDTH = 160
"""Columns of a shown text at most."""


@dataclass(frozen=True)
class RowCounts:
    """How often the soft prompt and another method are right on the same rows, by one seed of each.

    Attributes:
        other: the method.
        seed: of both, the first that both have; None: they share none, and each one's first is taken.
        both, ours, theirs, neither: rows that both have right, only the soft prompt, only the other, none of the two.
    """

    other: Key
    seed: int | None
    both: int
    ours: int
    theirs: int
    neither: int


@dataclass(frozen=True)
class ShownRow:
    """A row that one of two methods has right and the other wrong.

    Attributes:
        place: of the row among the test rows, from 0.
        text: its fields, cut; empty where the folder has no texts.
        gold, ours, theirs: labels.
    """

    place: int
    text: str
    gold: str
    ours: str
    theirs: str


@dataclass(frozen=True)
class Disagreement:
    """The soft prompt and the others of a task, row by row.

    Attributes:
        counts: beside every other method.
        rival: whose rows are shown; None: there is none.
        ours_right, theirs_right: rows that only one of the two has right.
        confusion: counts by right and predicted label of the soft prompt and of the rival, one seed each.
    """

    counts: tuple[RowCounts, ...] = ()
    rival: Key | None = None
    ours_right: tuple[ShownRow, ...] = ()
    theirs_right: tuple[ShownRow, ...] = ()
    confusion: Mapping[Key, tuple[tuple[int, ...], ...]] | None = None


def disagreement(task: TaskOutcomes, ours: Key | None, rival: Key | None) -> Disagreement:
    """Count and show the rows of a task that the soft prompt and others answer differently.

    Args:
        task: its outcomes.
        ours: what is called the soft prompt.
        rival: the method whose rows are shown beside it.
    """
    entries = {entry.key: entry for entry in task.entries if entry.main}
    if ours is None or ours not in entries:
        return Disagreement()
    counts = tuple(_counts(task, entries[ours], entry) for key, entry in entries.items() if key != ours)
    if rival is None or rival not in entries:
        return Disagreement(counts)
    _, mine, other = _pair(entries[ours], entries[rival])
    only_ours, only_theirs = disagreements(task.gold, np.asarray(mine.predicted), np.asarray(other.predicted))
    shown = [[_shown(task, int(place), mine, other) for place in places] for places in _cut(only_ours, only_theirs)]
    confusion = {key: _confusion(task, each) for key, each in ((ours, mine), (rival, other))}
    return Disagreement(counts, rival, tuple(shown[0]), tuple(shown[1]), confusion)


def _pair(ours: Entry, theirs: Entry) -> tuple[int | None, Outcome, Outcome]:
    """The outcomes of the first seed that both have, else the first of each."""
    others = {outcome.cell.seed: outcome for outcome in theirs.main}
    for outcome in ours.main:
        if outcome.cell.seed in others:
            return outcome.cell.seed, outcome, others[outcome.cell.seed]
    return None, ours.main[0], theirs.main[0]


def _counts(task: TaskOutcomes, ours: Entry, theirs: Entry) -> RowCounts:
    seed, mine, other = _pair(ours, theirs)
    one, two = np.asarray(mine.predicted) == task.gold, np.asarray(other.predicted) == task.gold
    each = (int(np.sum(rows)) for rows in (one & two, one & ~two, ~one & two, ~one & ~two))
    return RowCounts(theirs.key, seed, *each)


def _cut(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `EXAMPLES` rows: half of each side, and more of one where the other has fewer."""
    half = EXAMPLES // 2
    spare = max(0, half - len(first)), max(0, half - len(second))
    return first[: half + spare[1]], second[: half + spare[0]]


def _shown(task: TaskOutcomes, place: int, ours: Outcome, theirs: Outcome) -> ShownRow:
    fields: Mapping[str, Any] = task.texts[place] if task.texts else {}
    several = len(fields) > 1
    text = " · ".join(f"{name}: {value}" if several else str(value) for name, value in fields.items())
    labels = (task.labels[each[place]] for each in (ours.gold, ours.predicted, theirs.predicted))
    return ShownRow(place, shortened(text, WIDTH), *(shortened(label, WIDTH // 4) for label in labels))


def _confusion(task: TaskOutcomes, outcome: Outcome) -> tuple[tuple[int, ...], ...]:
    counts = confusion_matrix(task.gold, np.asarray(outcome.predicted), len(task.labels))
    return tuple(tuple(int(count) for count in row) for row in counts)

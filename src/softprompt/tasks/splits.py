"""Dividing rows, by seed alone: stratified by label, and equal texts always on one side."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence

from softprompt.errors import ConfigError, DataError
from softprompt.tasks.task import Example, Rows

Group = list[int]


def source_of_chance(seed: int, purpose: str) -> random.Random:
    """Return a generator of its own for each purpose, so that one choice never shifts another."""
    return random.Random(f"softprompt/{purpose}/{seed}")


def carve(
    rows: Rows, share: float, at_most: int, rng: random.Random, *, by_label: bool = True
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Set aside a share of the rows.

    Every label gives its share, at least one row where it can; rows with equal texts stay together; no label (of
    several in a row, no tag) loses its last text. Both parts keep the order of the rows.

    Args:
        rows: labelled rows.
        share: how much to set aside, in (0, 1).
        at_most: most rows to set aside.
        rng: decides which.
        by_label: stratify by label; switch off where answers are text.

    Returns:
        The rows kept and the rows set aside.
    """
    groups = _groups(rows)
    labels_of = [set().union(*(_kept(rows[i], by_label) for i in group)) for group in groups]
    left = Counter(label for labels in labels_of for label in labels)
    strata: dict[str, list[int]] = {}
    for number, group in enumerate(groups):
        strata.setdefault(_stratum(rows[group[0]], by_label), []).append(number)
    sizes = {label: sum(len(groups[n]) for n in numbers) for label, numbers in strata.items()}
    quotas = shares(sizes, share, at_most)
    aside: set[int] = set()
    for label in sorted(strata):
        for number in _drawn(strata[label], groups, quotas[label], rng):
            if all(left[name] > 1 for name in labels_of[number]):
                left.subtract(labels_of[number])
                aside.update(groups[number])
    kept = tuple(row for i, row in enumerate(rows) if i not in aside)
    return kept, tuple(row for i, row in enumerate(rows) if i in aside)


def _stratum(row: Example, by_label: bool) -> str:
    """The label that a row is drawn by; all rows are alike where they have no one label of few."""
    return row.label if by_label and isinstance(row.label, str) else ""


def _kept(row: Example, by_label: bool) -> set[str]:
    """The labels that must not lose their last text by taking this row away."""
    return {*row.labels} if row.labels and (by_label or isinstance(row.label, tuple)) else {""}


def _groups(rows: Rows) -> list[Group]:
    """Rows with equal texts, together, in order of first appearance."""
    found: dict[tuple[str, ...], Group] = {}
    for index, row in enumerate(rows):
        found.setdefault(row.key, []).append(index)
    return list(found.values())


def shares(sizes: Mapping[str, int], share: float, at_most: int) -> dict[str, int]:
    """Divide `share` of the rows among the labels by the largest remainder, at least one row each.

    >>> shares({"ham": 80, "spam": 20}, 0.15, 1000)
    {'ham': 12, 'spam': 3}

    Args:
        sizes: rows by label.
        share: how much to take, in (0, 1).
        at_most: most rows to take, even where that leaves a label without one.

    Returns:
        Rows to take by label.
    """
    total = sum(sizes.values())
    wanted = min(at_most, max(1, round(share * total)))
    exact = {label: wanted * size / total for label, size in sizes.items()}
    taken = {label: max(1, math.floor(part)) for label, part in exact.items()}
    for label in sorted(exact, key=lambda name: (math.floor(exact[name]) - exact[name], name)):
        if exact[label] > 1 and sum(taken.values()) < wanted:
            taken[label] += 1
    while sum(taken.values()) > at_most:
        taken[max(sorted(taken), key=lambda name: taken[name])] -= 1
    return taken


def _drawn(numbers: Sequence[int], groups: Sequence[Group], quota: int, rng: random.Random) -> list[int]:
    """Draw groups of one label that fit its quota, never all; the smallest where all are larger than it."""
    order = rng.sample(numbers, len(numbers))
    chosen: list[int] = []
    count = 0
    for number in order:
        if count + len(groups[number]) <= quota:
            chosen.append(number)
            count += len(groups[number])
    if not chosen and quota:
        chosen = [min(order, key=lambda n: len(groups[n]))]
    return chosen


def few_shots(
    rows: Rows, shots: int, labels: Sequence[str], rng: random.Random, *, by_label: bool = True
) -> tuple[Example, ...]:
    """Draw `shots` different texts of each label, in the order of the rows.

    Args:
        rows: labelled rows.
        shots: texts a label, at least 1.
        labels: the labels.
        rng: decides which.
        by_label: draw of each label; switched off, `shots` different texts in all.

    Raises:
        ConfigError: `shots` is below 1.
        DataError: a label has fewer different texts.
    """
    if shots < 1:
        raise ConfigError(f"shots is {shots}; it must be at least 1")
    first: dict[tuple[str, tuple[str, ...]], int] = {}
    for index, row in enumerate(rows):
        first.setdefault((_stratum(row, by_label), row.key), index)
    chosen: list[int] = []
    for label in labels if by_label else ("",):
        indices = [index for (name, _), index in first.items() if name == label]
        if len(indices) < shots:
            whose = f"the label `{label}` has" if by_label else "there are"
            raise DataError(
                f"shots is {shots}, and {whose} {len(indices)} different text(s) in train; "
                f"ask for at most {len(indices)} or add rows"
            )
        chosen += rng.sample(indices, shots)
    return tuple(rows[index] for index in sorted(chosen))


def folds(rows: Rows, count: int, rng: random.Random, *, by_label: bool = True) -> tuple[tuple[int, ...], ...]:
    """Divide rows into folds for cross-fitting: stratified by label, rows with equal texts in one fold.

    Args:
        rows: labelled rows.
        count: how many folds, at least 2 and at most the number of different texts.
        rng: decides which.
        by_label: stratify by label; switch off where answers are text.

    Returns:
        The indices of each fold, ascending; together they are all the rows, each once.

    Raises:
        ConfigError: there are fewer different texts than folds, or fewer than two folds.
    """
    groups = _groups(rows)
    if not 2 <= count <= len(groups):
        raise ConfigError(f"{count} folds of {len(groups)} different texts; ask for 2 to {len(groups)} folds")
    strata: dict[str, list[Group]] = {}
    for group in groups:
        strata.setdefault(_stratum(rows[group[0]], by_label), []).append(group)
    parts: list[list[int]] = [[] for _ in range(count)]
    for label in sorted(strata):
        mine = [0] * count
        for group in rng.sample(strata[label], len(strata[label])):
            fold = min(range(count), key=lambda n: (mine[n], len(parts[n]), n))
            parts[fold] += group
            mine[fold] += len(group)
    return tuple(tuple(sorted(part)) for part in parts)

"""Multi-label answers: F1 over all decisions, F1 of the mean label, and rows that are right in every label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from softprompt.evaluation.figures import ClassRow
from softprompt.evaluation.measures import Statistic
from softprompt.shapes import Bool, Float
from softprompt.tasks.task import Example, Label


def statistics_of(examples: Sequence[Example], answers: Sequence[Label]) -> list[Statistic]:
    """Return micro-F1, macro-F1 and subset accuracy of sets of labels.

    Micro-F1 counts every decision alike: 2 TP / (2 TP + FP + FN) summed over labels. Macro-F1 is the mean F1 of the
    labels that occur among the right or the answered ones. Both are 0 where nothing was right or answered.

    Args:
        examples: B rows, each with its labels.
        answers: B tuples of labels.
    """
    labels = sorted(
        {label for row in examples for label in row.labels} | {x for answer in answers for x in _set(answer)}
    )
    gold = _indicators([row.labels for row in examples], labels)
    predicted = _indicators([_set(answer) for answer in answers], labels)
    hits = (gold & predicted).astype(np.float64)
    seen = gold.astype(np.float64) + predicted
    exact = (gold == predicted).all(axis=1).astype(np.float64)
    return [
        Statistic("micro-F1", lambda weights: _micro(weights @ hits, weights @ seen)),
        Statistic("macro-F1", lambda weights: _macro(weights @ hits, weights @ seen)),
        Statistic("subset accuracy", lambda weights: np.asarray(weights @ exact / weights.sum(axis=1))),
    ]


def label_table(examples: Sequence[Example], answers: Sequence[Label]) -> tuple[ClassRow, ...]:
    """Return precision, recall, F1 and support of each label that is right or answered somewhere.

    >>> label_table([Example({}, ("a", "b"))], [("a",)])[0].f1
    1.0
    """
    found = [_set(answer) for answer in answers]
    labels = sorted({label for row in examples for label in row.labels} | {label for each in found for label in each})
    gold, predicted = _indicators([row.labels for row in examples], labels), _indicators(found, labels)
    counts = zip(labels, (gold & predicted).sum(0), predicted.sum(0), gold.sum(0), strict=True)
    return tuple(_row(label, int(hits), int(ours), int(theirs)) for label, hits, ours, theirs in counts)


def _row(label: str, hits: int, ours: int, theirs: int) -> ClassRow:
    precision, recall = (hits / total if total else None for total in (ours, theirs))
    return ClassRow(label=label, precision=precision, recall=recall, f1=2 * hits / (ours + theirs), support=theirs)


def _set(answer: Label) -> tuple[str, ...]:
    return answer if isinstance(answer, tuple) else ()


def _indicators(sets: Sequence[Sequence[str]], labels: Sequence[str]) -> Bool[np.ndarray, "B C"]:
    found = np.zeros((len(sets), len(labels)), dtype=bool)
    position = {label: i for i, label in enumerate(labels)}
    for row, names in enumerate(sets):
        found[row, [position[name] for name in names]] = True
    return found


def _micro(hits: Float[np.ndarray, "R C"], seen: Float[np.ndarray, "R C"]) -> Float[np.ndarray, " R"]:
    """`seen` is 2 TP + FP + FN of each label."""
    total = seen.sum(axis=1)
    return np.asarray(np.divide(2 * hits.sum(axis=1), total, out=np.zeros_like(total), where=total > 0))


def _macro(hits: Float[np.ndarray, "R C"], seen: Float[np.ndarray, "R C"]) -> Float[np.ndarray, " R"]:
    scores = np.divide(2 * hits, seen, out=np.zeros_like(seen), where=seen > 0)
    return np.asarray(scores.sum(axis=1) / np.maximum(1, (seen > 0).sum(axis=1)))

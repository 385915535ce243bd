"""How sure a number is: bootstrap intervals and paired tests on the same rows.

Resampling rows with replacement and counting equal rows is drawing from a multinomial over the distinct
(right label, predicted label …) combinations, called cells here. That is the ordinary bootstrap, row for row,
at the price of the cells: 2,000 resamples of 10,000 rows take milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from softprompt.evaluation.figures import Comparison, Difference, Interval
from softprompt.evaluation.metrics import accuracy, macro_f1
from softprompt.shapes import Bool, Float, Int

RESAMPLES = 2000
_CHUNK = 4_000_000  # numbers held at once while resampling


@dataclass(frozen=True)
class _Cells:
    """The distinct columns of some label arrays and how many rows fall in each."""

    values: Int[np.ndarray, "arrays K"]
    counts: Int[np.ndarray, " K"]

    @classmethod
    def of(cls, *arrays: Int[np.ndarray, " B"]) -> _Cells:
        return cls(*np.unique(np.stack(arrays), axis=1, return_counts=True))

    def resamples(self, seed: int, resamples: int) -> Iterator[Int[np.ndarray, "R K"]]:
        """Yield, some resamples at a time, how often each cell was drawn."""
        generator = np.random.default_rng(seed)
        rows, step = int(self.counts.sum()), max(1, _CHUNK // len(self.counts))
        for start in range(0, resamples, step):
            yield generator.multinomial(rows, self.counts / rows, size=min(step, resamples - start))


# A statistic of many resamples at once: (drawn [R, K], right label [K], predicted label [K]) -> [R]
_Statistic = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _accuracies(
    drawn: Int[np.ndarray, "R K"], gold: Int[np.ndarray, " K"], predicted: Int[np.ndarray, " K"]
) -> Float[np.ndarray, " R"]:
    return np.asarray(drawn @ (gold == predicted).astype(np.float64) / drawn.sum(axis=1))


def _macro_f1s(
    drawn: Int[np.ndarray, "R K"], gold: Int[np.ndarray, " K"], predicted: Int[np.ndarray, " K"]
) -> Float[np.ndarray, " R"]:
    one_hot = np.eye(max(gold.max(), predicted.max()) + 1)
    weights = drawn.astype(np.float64)
    hits = weights @ (one_hot[gold] * (gold == predicted)[:, None])  # [R, C]
    seen = weights @ (one_hot[gold] + one_hot[predicted])  # [R, C]: 2 TP + FP + FN
    scores = np.divide(2 * hits, seen, out=np.zeros_like(seen), where=seen > 0)
    return np.asarray(scores.sum(axis=1) / (seen > 0).sum(axis=1))


def _percentiles(samples: list[Float[np.ndarray, " R"]]) -> Interval:
    low, high = np.percentile(np.concatenate(samples), [2.5, 97.5])
    return Interval(float(low), float(high))


def accuracy_interval(
    gold: Int[np.ndarray, " B"], predicted: Int[np.ndarray, " B"], *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Return the 95 % percentile bootstrap interval of accuracy over the rows.

    Args:
        gold: right label of each row.
        predicted: predicted label of each row.
        seed: of the resampling; the same seed gives the same interval.
        resamples: how many.

    >>> accuracy_interval(np.array([0, 1, 1]), np.array([0, 1, 1]))
    Interval(low=1.0, high=1.0)
    """
    return _interval(_accuracies, gold, predicted, seed, resamples)


def macro_f1_interval(
    gold: Int[np.ndarray, " B"], predicted: Int[np.ndarray, " B"], *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Return the 95 % percentile bootstrap interval of macro-F1; arguments as for `accuracy_interval`."""
    return _interval(_macro_f1s, gold, predicted, seed, resamples)


def _interval(statistic: _Statistic, gold: np.ndarray, predicted: np.ndarray, seed: int, resamples: int) -> Interval:
    cells = _Cells.of(gold, predicted)
    return _percentiles([statistic(drawn, *cells.values) for drawn in cells.resamples(seed, resamples)])


Weighted = Callable[[Float[np.ndarray, "R B"]], Float[np.ndarray, " R"]]
"""A statistic of B rows under R sets of weights at once: weight 2 means that a row counts twice."""


def value_of(statistic: Weighted, rows: int) -> float:
    """Return the value of a statistic where each of B rows counts once.

    >>> value_of(lambda weights: weights @ np.array([1.0, 0.0]) / weights.sum(axis=1), 2)
    0.5
    """
    return float(statistic(np.ones((1, rows)))[0])


def weighted_interval(statistic: Weighted, rows: int, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Return the 95 % percentile bootstrap interval of any statistic that can be had from row weights.

    Args:
        statistic: from weights [R, B] to values [R].
        rows: B.
        seed: of the resampling.
        resamples: how many.
    """
    return _percentiles([statistic(weights) for weights in _weights(rows, seed, resamples)])


def weighted_difference(
    ours: Weighted, theirs: Weighted, rows: int, *, seed: int = 0, resamples: int = RESAMPLES
) -> Difference:
    """Return the difference of two statistics of the same B rows, each resample drawing the same rows for both.

    Args:
        ours: of the first predictor's answers.
        theirs: of the second's; the difference is positive where `ours` is larger.
        rows: B.
        seed: of the resampling.
        resamples: how many.
    """
    gaps = [ours(weights) - theirs(weights) for weights in _weights(rows, seed, resamples)]
    return Difference(value=value_of(ours, rows) - value_of(theirs, rows), interval=_percentiles(gaps))


def _weights(rows: int, seed: int, resamples: int) -> Iterator[Float[np.ndarray, "R B"]]:
    """Yield, some resamples at a time, how often each row was drawn."""
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK // rows)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = generator.integers(rows, size=(count, rows)) + np.arange(count)[:, None] * rows
        yield np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows).astype(np.float64)


def compare(
    gold: Int[np.ndarray, " B"],
    ours: Int[np.ndarray, " B"],
    theirs: Int[np.ndarray, " B"],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compare two predictors on the same rows: paired bootstrap of the differences, and McNemar's exact test.

    Args:
        gold: right label of each row.
        ours: labels predicted by the first; differences are positive when it is ahead.
        theirs: labels predicted by the second.
        seed: of the resampling.
        resamples: how many; every resample draws the same rows for both predictors.
    """
    cells = _Cells.of(gold, ours, theirs)
    right, first, second = cells.values
    gaps: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for drawn in cells.resamples(seed, resamples):
        for kept, statistic in zip(gaps, (_accuracies, _macro_f1s), strict=True):
            kept.append(statistic(drawn, right, first) - statistic(drawn, right, second))
    return Comparison(
        accuracy=Difference(value=accuracy(gold, ours) - accuracy(gold, theirs), interval=_percentiles(gaps[0])),
        macro_f1=Difference(value=macro_f1(gold, ours) - macro_f1(gold, theirs), interval=_percentiles(gaps[1])),
        mcnemar_p=mcnemar(ours == gold, theirs == gold),
    )


def mcnemar(first_right: Bool[np.ndarray, " B"], second_right: Bool[np.ndarray, " B"]) -> float:
    """Return the exact two-sided p-value that both are right equally often (McNemar 1947).

    Only the n rows on which exactly one of them is right count: p = min(1, 2 P(X <= min(b, c))) with
    X ~ Binomial(n, 1/2), summed in whole numbers.

    >>> mcnemar(np.array([True, True, True]), np.array([False, False, False]))
    0.25
    """
    only_first = int(np.sum(first_right & ~second_right))
    only_second = int(np.sum(second_right & ~first_right))
    rows, term, tail = only_first + only_second, 1, 0
    for k in range(min(only_first, only_second) + 1):
        tail += term
        term = term * (rows - k) // (k + 1)
    share: float = 2 * tail / 2**rows
    return min(1.0, share)

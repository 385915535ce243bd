"""Numbers as answers: how far off they are, and how well they rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from softprompt.errors import DataError
from softprompt.evaluation.measures import Statistic
from softprompt.evaluation.statistics import Weighted
from softprompt.shapes import Float
from softprompt.tasks.task import Example, Label


def statistics_of(examples: Sequence[Example], answers: Sequence[Label]) -> list[Statistic]:
    """Return mean absolute error, root mean squared error, Pearson's and Spearman's correlation.

    Spearman's is Pearson's of the ranks, equal values sharing their mean rank, ranked anew in every resample. A
    correlation with something constant is not defined and given as 0.

    Args:
        examples: B rows with a number each.
        answers: B numbers.

    Raises:
        DataError: a row or an answer without a number.
    """
    gold = _numbers([row.label for row in examples], "right answer")
    found = _numbers(answers, "answer")
    off = np.abs(gold - found)
    return [
        Statistic("MAE", _mean(off), higher=False, form="number"),
        Statistic("RMSE", lambda weights: np.sqrt(_mean(off**2)(weights)), higher=False, form="number"),
        Statistic("Pearson", lambda weights: _correlation(weights, gold[None], found[None]), form="number"),
        Statistic(
            "Spearman",
            lambda weights: _correlation(weights, _ranks(weights, gold), _ranks(weights, found)),
            form="number",
        ),
    ]


def _numbers(values: Sequence[Label], what: str) -> Float[np.ndarray, " B"]:
    for row, value in enumerate(values, 1):
        if not isinstance(value, float | int) or not np.isfinite(value):
            raise DataError(f"the {what} of row {row} is `{value}`, not a number; a regression is measured in numbers")
    return np.asarray(values, dtype=np.float64)


def _mean(values: Float[np.ndarray, " B"]) -> Weighted:
    return lambda weights: np.asarray(weights @ values / weights.sum(axis=1))


def _correlation(
    weights: Float[np.ndarray, "R B"], x: Float[np.ndarray, "Q B"], y: Float[np.ndarray, "Q B"]
) -> Float[np.ndarray, " R"]:
    """Pearson's correlation under each row of weights; x and y may differ from one to the next, or not (Q = 1)."""
    share = weights / weights.sum(axis=1, keepdims=True)
    dx = x - (share * x).sum(axis=1, keepdims=True)
    dy = y - (share * y).sum(axis=1, keepdims=True)
    together = (share * dx * dy).sum(axis=1)
    alone = np.sqrt((share * dx**2).sum(axis=1) * (share * dy**2).sum(axis=1))
    # What is left of a constant by rounding is no variance.
    defined = alone > 1e-12 * (1 + np.abs(x).max() * np.abs(y).max())
    return np.asarray(np.divide(together, alone, out=np.zeros_like(alone), where=defined))


def _ranks(weights: Float[np.ndarray, "R B"], values: Float[np.ndarray, " B"]) -> Float[np.ndarray, "R B"]:
    """The mean rank of each value where row b stands weights[r, b] times: those below it, and half of its equals."""
    distinct, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(distinct)))
    equals = np.add.reduceat(weights[:, order], starts, axis=1)  # [R, U]
    ranks = np.cumsum(equals, axis=1) - equals / 2 + 0.5
    return np.asarray(ranks[:, place])

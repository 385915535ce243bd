"""Ridge regression on frozen features: the linear probe of numbers, in closed form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from softprompt.evaluation.probe import SMALL_VALIDATION, folds_of
from softprompt.shapes import Float

PENALTIES = tuple(10.0**power for power in np.arange(-1, 5.5, 0.5))
"""Values of the L2 penalty on weights of standardised features."""


@dataclass(frozen=True, eq=False)
class Ridge:
    """A fitted probe: y = w · (x - mean) / scale + bias.

    Attributes:
        mean, scale: what features are standardised with, from the training rows.
        weights, bias: of the standardised features.
        penalty: the L2 penalty.
    """

    mean: Float[np.ndarray, " D"]
    scale: Float[np.ndarray, " D"]
    weights: Float[np.ndarray, " D"]
    bias: float
    penalty: float

    def predict(self, features: Float[np.ndarray, "B D"]) -> Float[np.ndarray, " B"]:
        """Return the number of each row."""
        return np.asarray((features.astype(np.float64) - self.mean) / self.scale @ self.weights + self.bias)


def fit_ridge(
    train: Float[np.ndarray, "B D"],
    gold: Float[np.ndarray, " B"],
    validation: Float[np.ndarray, "V D"],
    validation_gold: Float[np.ndarray, " V"],
    *,
    seed: int = 0,
) -> tuple[Ridge, float]:
    """Fit on the training rows with the penalty of the smallest squared error on rows that the fit did not see.

    Those are the validation rows; below 200 of them, folds of train and validation rows together.

    Args:
        train: features, at least one row.
        gold: the numbers to predict.
        validation: rows for the choice; may be few or none.
        validation_gold: theirs.
        seed: of the folds.

    Returns:
        The probe, and its mean squared error on the rows of the choice.
    """
    if len(validation_gold) >= SMALL_VALIDATION:
        parts = [(train, gold, validation, validation_gold)]
    else:
        x, y = np.concatenate([train, validation]), np.concatenate([gold, validation_gold])
        parts = [(x[i], y[i], x[o], y[o]) for i, o in folds_of(np.zeros(len(y), dtype=np.int64), seed)]
    total = dict.fromkeys(PENALTIES, 0.0)
    judged = sum(len(outside_gold) for *_, outside_gold in parts)
    for inside, inside_gold, outside, outside_gold in parts:
        for probe in _fits(inside, inside_gold):
            total[probe.penalty] += float(((probe.predict(outside) - outside_gold) ** 2).sum())
    best = min(total, key=lambda penalty: total[penalty])
    chosen = next(probe for probe in _fits(train, gold) if probe.penalty == best)
    return chosen, total[best] / judged if judged else float("inf")


def _fits(features: Float[np.ndarray, "B D"], gold: Float[np.ndarray, " B"]) -> Iterator[Ridge]:
    """Yield a probe for each penalty, all from one decomposition."""
    x = features.astype(np.float64)
    mean, scale, bias = x.mean(axis=0), x.std(axis=0), float(gold.mean())
    scale[scale < 1e-12] = 1.0  # a feature that never changes says nothing; it stays at 0
    left, sizes, right = np.linalg.svd((x - mean) / scale, full_matrices=False)
    along = left.T @ (gold - bias)
    for penalty in PENALTIES:
        weights = right.T @ (sizes / (sizes**2 + penalty) * along)
        yield Ridge(mean, scale, np.asarray(weights), bias, penalty)

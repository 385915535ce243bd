"""The linear probe: multinomial logistic regression on frozen features, a rival that takes seconds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softprompt.evaluation.metrics import calibrated, log_loss
from softprompt.shapes import Float, Int

STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
"""Values of C, the inverse of the L2 penalty, tried from the strongest penalty on."""

SMALL_VALIDATION = 200  # below this many validation rows the strength is chosen by folds
_FOLDS, _ENOUGH_ROWS = 5, 1000
_PATIENCE = 2  # strengths in a row that do worse before the search stops
_UNJUDGED = 1e-2  # the strength where a single row leaves nothing to judge on
_ROUGHLY, _TOLERANCE = 3e-4, 1e-4  # largest gradient left when choosing a penalty, and in the probe itself
_FLOOR = 1e-6  # probability of a label that no training row had
_ROUNDS = ((np.float32, 1000), (np.float64, 4000), (np.float64, 20000))


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A fitted probe.

    Attributes:
        classes: how many labels there are, C.
        present: those that training rows had, M of them; any other label scores one in a million.
        mean, scale: what features are standardised with, from the training rows.
        weights, bias: one row for each label in `present`.
        strength: the inverse of the L2 penalty.
        converged: whether the solver met its tolerance.
    """

    classes: int
    present: Int[np.ndarray, " M"]
    mean: Float[np.ndarray, " D"]
    scale: Float[np.ndarray, " D"]
    weights: Float[np.ndarray, "M D"]
    bias: Float[np.ndarray, " M"]
    strength: float
    converged: bool

    def log_probabilities(self, features: Float[np.ndarray, "B D"]) -> Float[np.ndarray, "B C"]:
        """Return each row's log-probabilities of the labels."""
        standard = (features - self.mean) / self.scale
        scores = np.full((len(features), self.classes), np.log(_FLOOR))
        scores[:, self.present] = calibrated(standard @ self.weights.T + self.bias)
        return calibrated(scores)


@dataclass(frozen=True, eq=False)
class Labelled:
    """Rows as numbers: features and right labels."""

    features: Float[np.ndarray, "B D"]
    gold: Int[np.ndarray, " B"]

    def rows(self, index: Int[np.ndarray, " M"]) -> Labelled:
        """Return the rows at `index`."""
        return Labelled(self.features[index], self.gold[index])


def fit_probe(train: Labelled, validation: Labelled, classes: int, *, seed: int = 0) -> tuple[LinearProbe, float]:
    """Fit on the training rows with the penalty that does best on rows the fit did not see.

    The penalty is chosen by log loss on the validation rows; below 200 of them by folds of train and validation
    rows together, as many of five as it takes to judge on 1,000 rows. The probe itself sees training rows only.

    Args:
        train: at least one row.
        validation: rows for the choice; may be few or none.
        classes: how many labels there are, C.
        seed: of the folds.

    Returns:
        The probe, and its log loss on the rows of the choice, in nats.
    """
    with _one_thread():
        if len(validation.gold) >= SMALL_VALIDATION:
            near, loss = _choose_on(validation, train, classes)
            return next(_fits(train, classes, [near.strength], _TOLERANCE, start=near)), loss
        strength, loss = _choose_by_folds(train, validation, classes, seed)
        return next(_fits(train, classes, [strength], _TOLERANCE)), loss


def _choose_on(validation: Labelled, train: Labelled, classes: int) -> tuple[LinearProbe, float]:
    """Return the roughly fitted probe with the smallest log loss on validation, and that loss.

    Fits go from the strongest penalty on, each from the one before, until validation has turned for good.
    """
    done: list[tuple[LinearProbe, float]] = []
    best = 0
    for probe in _fits(train, classes, STRENGTHS, _ROUGHLY):
        done.append((probe, log_loss(probe.log_probabilities(validation.features), validation.gold)))
        best = min(range(len(done)), key=lambda i: done[i][1])
        if len(done) - 1 - best >= _PATIENCE:
            break
    return done[best]


def _choose_by_folds(train: Labelled, validation: Labelled, classes: int, seed: int) -> tuple[float, float]:
    """Return the strength with the smallest out-of-fold log loss, and that loss."""
    everything = Labelled(
        np.concatenate([train.features, validation.features]), np.concatenate([train.gold, validation.gold])
    )
    total = dict.fromkeys(STRENGTHS, 0.0)
    judged = 0
    for inside, outside in folds_of(everything.gold, seed):
        part = everything.rows(outside)
        judged += len(outside)
        for probe in _fits(everything.rows(inside), classes, STRENGTHS, _ROUGHLY):
            total[probe.strength] += log_loss(probe.log_probabilities(part.features), part.gold) * len(outside)
    if not judged:
        return _UNJUDGED, float("inf")
    best = min(total, key=lambda strength: total[strength])
    return best, total[best] / judged


def folds_of(gold: Int[np.ndarray, " B"], seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (inside, outside) positions of stratified folds, until enough rows stood outside once.

    Args:
        gold: what to stratify by; the same number everywhere for plain folds.
        seed: of the order of the rows.
    """
    shuffled = np.random.default_rng(seed).permutation(len(gold))
    by_label = shuffled[np.argsort(gold[shuffled], kind="stable")]
    fold_of = np.empty(len(gold), dtype=np.int64)
    fold_of[by_label] = np.arange(len(gold)) % min(_FOLDS, len(gold))
    judged = 0
    for fold in range(_FOLDS):
        outside = np.flatnonzero(fold_of == fold)
        if judged >= _ENOUGH_ROWS or not len(outside) or len(outside) == len(gold):
            return
        judged += len(outside)
        yield np.flatnonzero(fold_of != fold), outside


def _fits(
    train: Labelled, classes: int, strengths: Sequence[float], tolerance: float, *, start: LinearProbe | None = None
) -> Iterator[LinearProbe]:
    """Yield a probe for each strength, every fit started at the one before, the first at `start`."""
    from sklearn.linear_model import LogisticRegression

    mean, scale = train.features.mean(axis=0, dtype=np.float64), train.features.std(axis=0, dtype=np.float64)
    scale[scale < 1e-12] = 1.0  # a feature that never changes says nothing; it stays at 0
    standard = (train.features - mean) / scale
    present = np.unique(train.gold)
    model: Any = LogisticRegression(solver="lbfgs", warm_start=True, tol=tolerance)
    if start is not None:
        kept = slice(1, None) if len(present) == 2 else slice(None)  # see `_per_label`
        model.coef_, model.intercept_ = start.weights[kept], start.bias[kept]
    for strength in strengths:
        if len(present) == 1:  # nothing to tell apart
            weights, bias, converged = np.zeros((1, len(mean))), np.zeros(1), True
        else:
            converged = _fit(model.set_params(C=strength), standard, train.gold)
            weights, bias = _per_label(model)
        yield LinearProbe(classes, present, mean, scale, weights, bias, strength, converged)


def _fit(model: Any, standard: Float[np.ndarray, "B D"], gold: Int[np.ndarray, " B"]) -> bool:
    """Fit, in fp32 for speed; where the solver does not converge, go on in fp64 with more iterations."""
    from sklearn.exceptions import ConvergenceWarning

    for dtype, iterations in _ROUNDS:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.set_params(max_iter=iterations).fit(standard.astype(dtype), gold)
        if not any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
            return True
    return False


def _per_label(model: Any) -> tuple[Float[np.ndarray, "M D"], Float[np.ndarray, " M"]]:
    """Return weights and bias of every label the model saw; with two labels scikit-learn keeps the second's only."""
    weights, bias = np.asarray(model.coef_, dtype=np.float64), np.asarray(model.intercept_, dtype=np.float64)
    if len(weights) == 1:
        return np.concatenate([0 * weights, weights]), np.concatenate([0 * bias, bias])
    return weights, bias


def _one_thread() -> Any:
    """Keep matrix products on one thread inside the block: quicker on these shapes, and the same every time."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    return threadpool_limits(limits=1, user_api="blas")

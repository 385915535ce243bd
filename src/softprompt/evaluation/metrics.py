"""What is counted: point metrics of a classifier, each right when a label is absent from the rows.

Counts and their ratios are scikit-learn's, the implementation that papers cite; what concerns
probabilities is written out here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from softprompt.evaluation.figures import Answered, ClassRow
from softprompt.shapes import Bool, Float, Int

ECE_BINS = 15


def accuracy(gold: Int[np.ndarray, " B"], predicted: Int[np.ndarray, " B"]) -> float:
    """Return the share of rows whose predicted label is the right one.

    >>> accuracy(np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0]))
    0.75
    """
    return float(np.mean(gold == predicted))


def macro_f1(gold: Int[np.ndarray, " B"], predicted: Int[np.ndarray, " B"]) -> float:
    """Return the mean F1 of the labels that occur among the right or the predicted ones.

    A label that is neither there nor predicted says nothing about a predictor, so it is left out.
    """
    from sklearn.metrics import f1_score

    return float(f1_score(gold, predicted, average="macro", zero_division=0.0))


def mcc(gold: Int[np.ndarray, " B"], predicted: Int[np.ndarray, " B"]) -> float:
    """Return Matthews' correlation for any number of labels, in [-1, 1]; 0 when either side is constant."""
    from sklearn.metrics import matthews_corrcoef

    if len(np.unique(gold)) < 2 or len(np.unique(predicted)) < 2:
        return 0.0  # the limit; scikit-learn says the same, with a warning
    return float(matthews_corrcoef(gold, predicted))


def confusion_matrix(
    gold: Int[np.ndarray, " B"], predicted: Int[np.ndarray, " B"], classes: int
) -> Int[np.ndarray, "C C"]:
    """Return the counts by right label (rows) and predicted label (columns), absent labels included.

    Args:
        gold: right label of each row, in [0, classes).
        predicted: predicted label of each row, in [0, classes).
        classes: how many labels there are, C.
    """
    from sklearn.metrics import confusion_matrix as count

    return np.asarray(count(gold, predicted, labels=range(classes)), dtype=np.int64)


def class_table(
    gold: Int[np.ndarray, " B"], predicted: Int[np.ndarray, " B"], labels: Sequence[str]
) -> tuple[ClassRow, ...]:
    """Return precision, recall, F1 and support of each label, None where a figure is not defined."""
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(gold, predicted, labels=range(len(labels)), zero_division=np.nan)
    rows = zip(labels, *columns, strict=True)
    return tuple(
        ClassRow(label=label, precision=_known(p), recall=_known(r), f1=_known(f), support=int(support))
        for label, p, r, f, support in rows
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def calibrated(
    log_probabilities: Float[np.ndarray, "B C"], temperature: float | Float[np.ndarray, " B"] = 1.0
) -> Float[np.ndarray, "B C"]:
    """Return log-softmax(l / T): log-probabilities over the labels, made flatter by T > 1 and sharper by T < 1.

    Args:
        log_probabilities: l, up to a constant per row.
        temperature: T > 0, one for all rows or one for each.
    """
    divisor = np.reshape(np.asarray(temperature, dtype=np.float64), (-1, 1))
    scaled = log_probabilities.astype(np.float64) / divisor
    scaled -= scaled.max(axis=1, keepdims=True)
    return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)))


def log_loss(log_probabilities: Float[np.ndarray, "B C"], gold: Int[np.ndarray, " B"]) -> float:
    """Return the mean negative log-probability of the right label, in nats.

    Args:
        log_probabilities: normalised over the labels, as `calibrated` returns them.
        gold: right label of each row.
    """
    return float(-log_probabilities[np.arange(len(gold)), gold].mean())


def expected_calibration_error(
    confidence: Float[np.ndarray, " B"], right: Bool[np.ndarray, " B"], bins: int = ECE_BINS
) -> float:
    """Return the top-label expected calibration error over bins of equal width.

    ECE = sum over bins m of (B_m / B) * |accuracy_m - mean confidence_m|, bin m being
    ((m - 1) / M, m / M] (Guo et al. 2017, arXiv 1706.04599; M = 15 as there).

    Args:
        confidence: probability of the predicted label, in [0, 1].
        right: whether the predicted label is the right one.
        bins: M.

    >>> round(expected_calibration_error(np.array([0.9, 0.9]), np.array([True, False])), 3)
    0.4
    """
    bin_of = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=right - confidence.astype(np.float64), minlength=bins)  # [M], times B_m
    return float(np.abs(gaps).sum() / len(confidence))


def answered(confidence: Float[np.ndarray, " B"], right: Bool[np.ndarray, " B"], threshold: float) -> Answered:
    """Return coverage and accuracy when answers below `threshold` are held back.

    >>> answered(np.array([0.9, 0.6]), np.array([True, False]), threshold=0.8).coverage
    0.5
    """
    kept = confidence >= threshold
    share = float(right[kept].mean()) if kept.any() else None
    return Answered(threshold=threshold, coverage=float(kept.mean()), accuracy=share)

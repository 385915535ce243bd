"""Metrics against formulas written out by hand, labels missing from the rows included."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics  # noqa: F401  here, so that no drawn example pays for the import
from hypothesis import given
from hypothesis import strategies as st

from softprompt.evaluation import metrics

CLASSES = 4
PAIRS = st.lists(st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=40)


def arrays(pairs):
    return np.array([g for g, _ in pairs]), np.array([p for _, p in pairs])


def counts(pairs, label):
    hit = sum(g == p == label for g, p in pairs)
    return hit, sum(p == label for _, p in pairs), sum(g == label for g, _ in pairs)


@given(PAIRS)
def test_accuracy_and_macro_f1_are_their_formulas(pairs):
    gold, predicted = arrays(pairs)
    assert metrics.accuracy(gold, predicted) == pytest.approx(sum(g == p for g, p in pairs) / len(pairs))
    scores = [
        2 * hit / (said + there) for hit, said, there in (counts(pairs, c) for c in range(CLASSES)) if said + there
    ]
    assert metrics.macro_f1(gold, predicted) == pytest.approx(sum(scores) / len(scores))


@given(PAIRS)
def test_mcc_is_the_correlation_of_one_hot_labels(pairs):
    gold, predicted = arrays(pairs)
    eye = np.eye(CLASSES)
    a, b = eye[gold] - eye[gold].mean(0), eye[predicted] - eye[predicted].mean(0)
    spread = (a * a).sum() * (b * b).sum()
    expected = (a * b).sum() / math.sqrt(spread) if spread > 1e-12 else 0.0
    assert metrics.mcc(gold, predicted) == pytest.approx(expected, abs=1e-9)


@given(PAIRS)
def test_the_confusion_matrix_and_the_class_table_agree(pairs):
    gold, predicted = arrays(pairs)
    matrix = metrics.confusion_matrix(gold, predicted, CLASSES)
    assert matrix.shape == (CLASSES, CLASSES)
    assert matrix.sum() == len(pairs)
    for label, row in enumerate(metrics.class_table(gold, predicted, "abcd")):
        hit, said, there = counts(pairs, label)
        assert (row.label, row.support) == ("abcd"[label], there)
        assert matrix[label].sum() == there
        assert matrix[:, label].sum() == said
        assert row.precision == (pytest.approx(hit / said) if said else None)
        assert row.recall == (pytest.approx(hit / there) if there else None)
        assert row.f1 == (pytest.approx(2 * hit / (said + there)) if said + there else None)


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), min_size=1, max_size=60), st.integers(1, 20))
def test_ece_is_its_sum_over_bins(rows, bins):
    confidence, right = np.array([c for c, _ in rows]), np.array([r for _, r in rows])
    expected = 0.0
    for m in range(1, bins + 1):
        members = [i for i, (c, _) in enumerate(rows) if (m - 1) < c * bins <= m or (m == 1 and c == 0)]
        if members:
            gap = abs(right[members].mean() - confidence[members].mean())
            expected += len(members) / len(rows) * gap
    assert metrics.expected_calibration_error(confidence, right, bins) == pytest.approx(expected, abs=1e-9)


def test_a_sure_and_right_predictor_has_no_calibration_error_and_a_sure_and_wrong_one_has_all_of_it():
    sure = np.ones(5)
    assert metrics.expected_calibration_error(sure, np.ones(5, dtype=bool)) == 0.0
    assert metrics.expected_calibration_error(sure, np.zeros(5, dtype=bool)) == 1.0


@given(st.integers(0, 1000), st.floats(0.1, 10.0))
def test_calibrated_is_a_distribution_with_the_same_winner(seed, temperature):
    scores = np.random.default_rng(seed).normal(size=(6, 3))
    out = metrics.calibrated(scores, temperature)
    assert np.exp(out).sum(axis=1) == pytest.approx(np.ones(6))
    assert (out.argmax(axis=1) == scores.argmax(axis=1)).all()
    assert out[:, 0] - out[:, 1] == pytest.approx((scores[:, 0] - scores[:, 1]) / temperature)


def test_calibrated_takes_one_temperature_a_row_and_survives_large_scores():
    scores = np.array([[1000.0, 0.0], [1000.0, 0.0]])
    out = metrics.calibrated(scores, np.array([1.0, 1000.0]))
    assert np.exp(out[:, 0]) == pytest.approx([1.0, 1 / (1 + math.exp(-1))])


def test_log_loss_is_the_mean_negative_log_probability_of_the_right_label():
    shares = np.log(np.array([[0.5, 0.5], [0.2, 0.8]]))
    assert metrics.log_loss(shares, np.array([0, 1])) == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2)


def test_nothing_answered_has_no_accuracy():
    left = metrics.answered(np.array([0.4, 0.5]), np.array([True, False]), threshold=0.9)
    assert (left.coverage, left.accuracy) == (0.0, None)

"""Intervals and tests against row-by-row resampling, exact sums and coverage."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from softprompt.evaluation import statistics


def predictor(seed, rows=400, classes=3, skill=0.8):
    generator = np.random.default_rng(seed)
    gold = generator.integers(0, classes, rows)
    guess = generator.integers(0, classes, rows)
    return gold, np.where(generator.random(rows) < skill, gold, guess)


def row_by_row(statistic, *columns, resamples=2000):
    """The bootstrap as everyone knows it."""
    generator = np.random.default_rng(1)
    rows = len(columns[0])
    picks = (generator.integers(0, rows, rows) for _ in range(resamples))
    return np.percentile([statistic(*(column[pick] for column in columns)) for pick in picks], [2.5, 97.5])


def test_accuracy_interval_equals_resampling_rows():
    gold, predicted = predictor(0)
    expected = row_by_row(lambda g, p: (g == p).mean(), gold, predicted)
    assert statistics.accuracy_interval(gold, predicted) == pytest.approx(expected, abs=0.006)


def test_macro_f1_interval_equals_resampling_rows():
    gold, predicted = predictor(1, rows=150)
    gold[gold == 2] = 1
    gold[:4] = 2  # a label that some resamples lack
    expected = row_by_row(
        lambda g, p: f1_score(g, p, average="macro", zero_division=0.0), gold, predicted, resamples=500
    )
    assert statistics.macro_f1_interval(gold, predicted) == pytest.approx(expected, abs=0.03)


def test_paired_difference_equals_resampling_rows_for_both_at_once():
    gold, ours = predictor(2)
    theirs = np.where(np.random.default_rng(5).random(400) < 0.6, ours, gold)
    found = statistics.compare(gold, ours, theirs).accuracy
    expected = row_by_row(lambda g, a, b: (g == a).mean() - (g == b).mean(), gold, ours, theirs)
    assert found.interval == pytest.approx(expected, abs=0.006)
    assert found.value == pytest.approx((gold == ours).mean() - (gold == theirs).mean())
    assert found.outcome == "worse"


def test_pairing_is_sharper_than_two_separate_intervals():
    gold, ours = predictor(3)
    theirs = ours.copy()
    theirs[:6] = (gold[:6] + 1) % 3
    gap = statistics.compare(gold, ours, theirs).accuracy.interval
    alone = statistics.accuracy_interval(gold, ours)
    assert gap.high - gap.low < (alone.high - alone.low) / 2


def test_the_same_predictor_twice_is_even():
    gold, ours = predictor(4)
    against = statistics.compare(gold, ours, ours)
    assert (against.accuracy.value, tuple(against.accuracy.interval), against.mcnemar_p) == (0.0, (0.0, 0.0), 1.0)
    assert against.accuracy.outcome == against.macro_f1.outcome == "even"


def test_a_seed_fixes_the_interval_and_chunks_do_not_change_it(monkeypatch):
    gold, predicted = predictor(6)
    first = statistics.macro_f1_interval(gold, predicted, seed=3)
    assert statistics.macro_f1_interval(gold, predicted, seed=3) == first
    assert statistics.macro_f1_interval(gold, predicted, seed=4) != first
    monkeypatch.setattr(statistics, "_CHUNK", 100)
    assert statistics.macro_f1_interval(gold, predicted, seed=3) == first


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    truth, hits = 0.8 + 0.2 / 3, 0
    for seed in range(100):
        low, high = statistics.accuracy_interval(*predictor(seed, rows=200), resamples=400)
        hits += low <= truth <= high
    assert 88 <= hits <= 100


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 5))
@settings(max_examples=50)
def test_mcnemar_is_the_two_sided_binomial_test(only_first, only_second, both):
    first = np.array([True] * (only_first + both) + [False] * only_second + [False])
    second = np.array([False] * only_first + [True] * (both + only_second) + [False])
    n, k = only_first + only_second, min(only_first, only_second)
    expected = min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n)
    assert statistics.mcnemar(first, second) == pytest.approx(expected)


def test_mcnemar_agrees_with_scipy_on_many_rows():
    from scipy.stats import binomtest

    first = np.arange(9000) < 4600
    assert statistics.mcnemar(first, ~first) == pytest.approx(binomtest(4400, 9000, 0.5).pvalue)

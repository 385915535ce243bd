"""Figures over seeds and resamples: equal to the plain metrics, paired, and corrected for their number."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.errors import DataError
from softprompt.evaluation import metrics
from softprompt.evaluation.statistics import accuracy_interval, mcnemar
from softprompt.experiments.report import statistics
from softprompt.experiments.report.statistics import Answers, bootstrap_p, difference, holm, mcnemar_p, sampled


def answers(gold, *accuracies, classes=3, seed=0):
    generator = np.random.default_rng(seed)
    shape = (len(accuracies), len(gold))
    right = generator.random(shape) < np.asarray(accuracies)[:, None]
    predicted = np.where(right, gold, (gold + 1) % classes)
    confidence = 0.4 + 0.6 * generator.random(shape)
    return Answers(predicted, np.where(right, np.log(confidence), np.log(0.1)), confidence)


@pytest.fixture
def gold():
    return np.random.default_rng(1).integers(3, size=240)


@settings(max_examples=12, deadline=None)
@given(st.integers(2, 6), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_what_is_resampled_is_the_plain_metric_where_each_row_counts_once(classes, rows, seed):
    generator = np.random.default_rng(seed)
    gold = generator.integers(classes, size=rows)
    given_answers = Answers(
        generator.integers(classes, size=(2, rows)), np.log(generator.random((2, rows))), generator.random((2, rows))
    )
    ones = np.ones((1, rows), dtype=np.float32)
    drawn = statistics._drawn(ones, ones @ statistics._one_hot(gold, classes), gold, given_answers).mean(axis=0)[:, 0]
    each = statistics._of_seeds(gold, given_answers)
    assert drawn == pytest.approx([np.mean(each[metric]) for metric in statistics.METRICS], abs=1e-9)
    assert each["macro_f1"][0] == metrics.macro_f1(gold, given_answers.predicted[0])


def test_figures_over_seeds(gold):
    given_answers = answers(gold, 0.9, 0.7, 0.8)
    found = sampled(gold, {"a": given_answers}, 3)["a"]
    each = [metrics.accuracy(gold, predicted) for predicted in given_answers.predicted]
    assert found.seeds["accuracy"] == tuple(each)
    assert found.value("accuracy") == pytest.approx(np.mean(each))
    assert found.deviation("accuracy") == pytest.approx(np.std(each, ddof=1))
    assert found.worst("accuracy") == min(each)
    assert found.worst("log_loss") == max(found.seeds["log_loss"])
    for metric in statistics.METRICS[:4]:
        low, high = found.interval(metric)
        assert low < found.value(metric) < high


def test_the_interval_of_one_seed_is_that_of_the_report_card(gold):
    found = sampled(gold, {"a": answers(gold, 0.8)}, 3)["a"]
    expected = accuracy_interval(gold, answers(gold, 0.8).predicted[0])
    assert found.interval("accuracy") == pytest.approx(expected, abs=0.01)
    assert found.deviation("accuracy") is None


def test_the_same_rows_are_drawn_for_all(gold):
    same = answers(gold, 0.8)
    found = sampled(gold, {"a": same, "b": same, "c": answers(gold, 0.3, seed=5)}, 3)
    gap = difference(found["a"], found["b"], "accuracy")
    assert (gap.value, *gap.interval) == (0, 0, 0)
    assert bootstrap_p(found["a"], found["b"], "accuracy") == 1.0
    assert difference(found["a"], found["c"], "accuracy").outcome == "better"
    assert bootstrap_p(found["a"], found["c"], "accuracy") == pytest.approx(2 / 2001)
    alone = sampled(gold, {"c": answers(gold, 0.3, seed=5)}, 3)["c"]
    assert alone.interval("mcc") == found["c"].interval("mcc")


def test_seeds_are_drawn_as_rows_are():
    gold = np.zeros(100, dtype=int)
    right = np.arange(100) < np.array([[90], [70], [50]])
    unlike = Answers(np.where(right, 0, 1), np.full((3, 100), -0.5), np.full((3, 100), 0.6))
    one = Answers(unlike.predicted[1:2], unlike.gold_log[1:2], unlike.confidence[1:2])
    found = sampled(gold, {"a": unlike, "b": unlike, "c": one}, 2)
    low, high = found["a"].interval("accuracy")
    narrow = found["c"].interval("accuracy")
    assert found["a"].value("accuracy") == pytest.approx(found["c"].value("accuracy"))
    assert low < narrow.low - 0.05 < narrow.high + 0.05 < high
    assert difference(found["a"], found["b"], "accuracy").interval == (0, 0)
    assert difference(found["a"], found["c"], "accuracy").outcome == "even"
    drawn = found["a"].drawn["accuracy"]
    assert np.var(drawn) == pytest.approx(0.2**2 * 2 / 3 / 3 + 0.7 * 0.3 / 100, rel=0.15)


def test_chunks_of_resamples_are_one_sample(gold, monkeypatch):
    monkeypatch.setattr(statistics, "_CHUNK", 700 * len(gold))
    found = sampled(gold, {"a": answers(gold, 0.8)}, 3)["a"]
    assert found.drawn["accuracy"].shape == (2000,)
    assert found.interval("accuracy").low < found.value("accuracy") < found.interval("accuracy").high


def test_mcnemar_is_for_one_seed_each(gold):
    one, other, many = answers(gold, 0.9), answers(gold, 0.7, seed=3), answers(gold, 0.8, 0.9)
    assert mcnemar_p(gold, one, other) == mcnemar(one.predicted[0] == gold, other.predicted[0] == gold)
    assert mcnemar_p(gold, one, many) is None


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8))
def test_holm_never_makes_a_p_smaller_and_keeps_the_order(p_values):
    corrected = holm(p_values)
    assert corrected.keys() == p_values.keys()
    assert all(p_values[name] <= corrected[name] <= 1 for name in p_values)
    ordered = [corrected[name] for name in sorted(p_values, key=p_values.get)]
    assert ordered == sorted(ordered)


def test_an_impossible_row_does_not_make_the_log_loss_infinite():
    one = Answers(np.array([[0, 1]]), np.array([[-math.inf, 0.0]]), np.ones((1, 2)))
    found = sampled(np.array([1, 1]), {"a": one}, 2)["a"]
    assert found.value("log_loss") == pytest.approx(-math.log(1e-12) / 2)


def test_answers_must_fit_together(gold):
    with pytest.raises(DataError, match=r"answers of shapes \[\(1, 2\), \(1, 3\)\] were given; give one row a seed"):
        Answers(np.zeros((1, 3), dtype=int), np.zeros((1, 2)), np.zeros((1, 3)))
    with pytest.raises(DataError, match="239 rows were answered by a, and the task has 240; compare what answered the"):
        sampled(gold, {"a": answers(gold[1:], 0.5)}, 3)

"""One temperature and one threshold, fitted on rows made so that the right ones are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from softprompt.errors import ConfigError
from softprompt.evaluation import metrics
from softprompt.evaluation.calibration import choose_abstention, fit_temperature


def rows(seed=0, count=4000, classes=3, spread=1.5):
    """Log-probabilities whose labels were drawn from them: calibrated at T = 1."""
    generator = np.random.default_rng(seed)
    scores = metrics.calibrated(generator.normal(size=(count, classes)) * spread)
    gold = (scores + generator.gumbel(size=scores.shape)).argmax(axis=1)
    return scores, gold


@pytest.mark.parametrize("truth", [0.5, 1.7, 4.0])
def test_the_temperature_that_was_put_in_is_found(truth):
    scores, gold = rows()
    found = fit_temperature(scores * truth, gold)
    assert found.fitted
    assert found.value == pytest.approx(truth, rel=0.06)
    assert found.log_loss_after < found.log_loss_before


@given(st.integers(0, 200), st.floats(0.3, 5.0))
@settings(max_examples=20, deadline=None)
def test_no_temperature_on_a_grid_is_better(seed, sharpness):
    scores, gold = rows(seed, count=80)
    found = fit_temperature(scores * sharpness, gold)
    losses = [metrics.log_loss(metrics.calibrated(scores * sharpness, t), gold) for t in np.geomspace(0.06, 20, 60)]
    assume(found.fitted)
    assert found.log_loss_after <= min(losses) + 1e-6


def test_calibration_error_falls():
    scores, gold = rows()
    sharp = scores * 3
    right = sharp.argmax(axis=1) == gold

    def ece(temperature):
        return metrics.expected_calibration_error(np.exp(metrics.calibrated(sharp, temperature).max(axis=1)), right)

    assert ece(fit_temperature(sharp, gold).value) < ece(1.0) / 4


def test_few_rows_are_not_fitted_and_the_reason_is_said():
    scores, gold = rows(count=49)
    found = fit_temperature(scores, gold)
    assert (found.value, found.fitted) == (1.0, False)
    assert found.reason == "49 validation rows are too few to fit one (50 are needed)"


def test_rows_all_told_apart_are_not_fitted_and_the_reason_is_said():
    scores, _ = rows(count=100)
    found = fit_temperature(scores, scores.argmax(axis=1))
    assert (found.value, found.fitted) == (1.0, False)
    assert found.reason == "every temperature down to 0.05 lowers the loss: the 100 validation rows are all told apart"


def test_scores_without_information_end_at_the_upper_bound_and_it_is_said():
    scores, _ = rows(count=300)
    found = fit_temperature(scores * 30, np.random.default_rng(9).integers(0, 3, 300))
    assert found.value == pytest.approx(20.0, rel=0.01)
    assert found.reason == "at its upper bound: the probabilities hold next to no information"


def test_equal_scores_stay_as_they_are():
    found = fit_temperature(np.zeros((60, 2)), np.arange(60) % 2)
    assert (found.value, found.fitted, found.reason) == (1.0, False, "1 is already the best")


@given(st.integers(0, 300), st.floats(0.4, 1.0))
@settings(max_examples=60, deadline=None)
def test_the_threshold_is_the_smallest_that_reaches_the_target(seed, target):
    scores, gold = rows(seed, count=60)
    confidence, right = np.exp(scores.max(axis=1)), scores.argmax(axis=1) == gold
    found = choose_abstention(scores, gold, target)
    reachable = [c for c in confidence if right[confidence >= c].mean() >= target and (confidence >= c).sum() >= 20]
    if found.threshold is None:
        assert not reachable
        return
    kept = confidence >= found.threshold
    assert kept.sum() == max((confidence >= c).sum() for c in reachable)
    assert right[kept].mean() == pytest.approx(found.accuracy)
    assert found.accuracy >= target
    assert kept.mean() == pytest.approx(found.coverage)


def test_a_target_met_by_every_row_holds_nothing_back():
    scores, _ = rows(count=50)
    found = choose_abstention(scores, scores.argmax(axis=1), 0.9)
    assert (found.threshold, found.coverage, found.accuracy) == (0.0, 1.0, 1.0)


def test_a_target_out_of_reach_gives_no_threshold_and_says_so():
    scores, _ = rows(count=50)
    found = choose_abstention(scores, (scores.argmax(axis=1) + 1) % 3, 0.9)
    assert found.threshold is None
    assert found.reason == "no threshold leaves at least 20 of the 50 validation rows answered at an accuracy of 90.0%"


@pytest.mark.parametrize("target", [0.0, 1.2, float("nan")])
def test_a_target_that_is_no_accuracy_is_refused(target):
    with pytest.raises(ConfigError, match=r"an abstain target of .* was asked; it is an accuracy, give one above 0"):
        choose_abstention(*rows(count=50), target)

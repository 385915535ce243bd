"""The linear probe against scikit-learn used plainly, and where data are thin."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from softprompt.evaluation import probe
from softprompt.evaluation.metrics import log_loss
from softprompt.evaluation.probe import STRENGTHS, Labelled, fit_probe


def rows(count, size=12, classes=3, seed=0, strength=1.0):
    generator = np.random.default_rng(seed)
    weights = np.random.default_rng(99).normal(size=(size, classes)) * strength
    features = generator.normal(size=(count, size)) * np.linspace(0.1, 30, size) + 5
    scores = (features - 5) / np.linspace(0.1, 30, size) @ weights
    return Labelled(features.astype(np.float32), (scores + generator.gumbel(size=scores.shape)).argmax(axis=1))


@pytest.mark.parametrize("classes", [2, 3])
def test_it_is_scikit_learn_with_the_best_penalty_on_validation(classes):
    train, validation = rows(400, classes=classes), rows(250, classes=classes, seed=1)
    found, loss = fit_probe(train, validation, classes)
    scaler = StandardScaler().fit(train.features.astype(np.float64))
    losses, shares = {}, {}
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=5000, tol=1e-8)
        model.fit(scaler.transform(train.features.astype(np.float64)), train.gold)
        shares[strength] = model.predict_proba(scaler.transform(validation.features.astype(np.float64)))
        losses[strength] = log_loss(np.log(shares[strength]), validation.gold)
    assert loss == pytest.approx(min(losses.values()), abs=2e-3)
    assert np.exp(found.log_probabilities(validation.features)) == pytest.approx(shares[found.strength], abs=1e-2)
    assert found.converged


def test_at_least_six_strengths_are_tried():
    assert len(STRENGTHS) >= 6
    assert list(STRENGTHS) == sorted(STRENGTHS)


def test_small_validation_chooses_by_folds_and_trains_on_training_rows_only(monkeypatch):
    fitted = []
    real = probe._fits
    monkeypatch.setattr(
        probe, "_fits", lambda train, *rest, **more: fitted.append(len(train.gold)) or real(train, *rest, **more)
    )
    found, loss = fit_probe(rows(80), rows(40, seed=1), 3)
    assert fitted == [96, 96, 96, 96, 96, 80]  # five folds of 120 rows, then the probe itself
    assert found.strength in STRENGTHS
    assert 0 < loss < np.log(3)


def test_folds_stop_when_enough_rows_were_judged():
    gold = np.arange(4000) % 3
    folds = list(probe.folds_of(gold, seed=0))
    assert [len(outside) for _, outside in folds] == [800, 800]
    inside, outside = folds[0]
    assert set(inside) | set(outside) == set(range(4000))
    assert np.bincount(gold[outside]).tolist() == [267, 267, 266]


def test_a_label_without_training_rows_is_all_but_impossible():
    train = rows(200, classes=2)
    found, _ = fit_probe(train, rows(200, classes=2, seed=1), 4)
    shares = np.exp(found.log_probabilities(train.features))
    assert shares.shape == (200, 4)
    assert shares[:, 2:].max() < 2e-6
    assert shares.sum(axis=1) == pytest.approx(np.ones(200))


@pytest.mark.parametrize("validation", [0, 3])
def test_one_class_or_one_row_is_no_trouble(validation):
    train = Labelled(np.ones((1, 4), dtype=np.float32), np.array([1]))
    more = Labelled(np.ones((validation, 4), dtype=np.float32), np.ones(validation, dtype=np.int64))
    found, _ = fit_probe(train, more, 2)
    assert found.log_probabilities(train.features).argmax(axis=1).tolist() == [1]


def test_a_feature_that_never_changes_and_one_that_is_huge_do_no_harm():
    train, validation = rows(300), rows(250, seed=1)
    plain, expected = fit_probe(train, validation, 3)
    wide = [
        Labelled(np.hstack([p.features, np.full((len(p.gold), 1), 7e4, "f4")]), p.gold) for p in (train, validation)
    ]
    assert fit_probe(*wide, 3)[1] == pytest.approx(expected, abs=1e-3)
    assert plain.converged


def test_a_solver_that_stops_early_goes_on_and_no_warning_leaks(monkeypatch):
    monkeypatch.setattr(probe, "_ROUNDS", ((np.float32, 2), (np.float64, 500)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_probe(rows(300), rows(250, seed=1), 3)[0].converged
        monkeypatch.setattr(probe, "_ROUNDS", ((np.float32, 1),))
        assert not fit_probe(rows(300), rows(250, seed=1), 3)[0].converged


def test_the_same_rows_give_the_same_probe():
    first, second = (fit_probe(rows(300), rows(250, seed=1), 3)[0] for _ in range(2))
    assert (first.weights == second.weights).all()
    assert first.strength == second.strength


def test_eight_thousand_rows_of_640_numbers_take_seconds():
    """Fifteen are allowed on two free cores; the bound here leaves room for a busy machine."""
    train, validation = rows(8000, size=640, classes=6, strength=0.1), rows(1000, size=640, classes=6, seed=1)
    started = time.perf_counter()
    found, _ = fit_probe(train, validation, 6)
    assert time.perf_counter() - started < 30
    assert found.converged

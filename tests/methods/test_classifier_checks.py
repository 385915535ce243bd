"""scikit-learn's own checks of estimators, run on `PromptClassifier` behind a door that writes numbers as text."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.exceptions import SkipTestWarning
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator
from sklearn.utils.validation import validate_data

import softprompt as sp
from softprompt.methods.classifier import PromptClassifier
from softprompt.testing.tiny import tiny_backbone
from softprompt.training.config import TrainConfig


@cache
def tiny() -> sp.Backbone:
    return tiny_backbone("llama", num_hidden_layers=1, layer_types=None)


class OfNumbers(PromptClassifier):
    """scikit-learn's checks hand over numbers; here each row of them becomes one text, and nothing else is changed."""

    def __init__(self, steps: int = 1, random_state: Any = 0) -> None:
        super().__init__(tiny(), steps=steps, random_state=random_state, race=False, virtual_tokens=2)

    def _config(self) -> TrainConfig:
        settings = {"steps": self.steps, "race": False, "virtual_tokens": 2, "validation_rows": 4, "report": False}
        return TrainConfig.read(**settings)

    def fit(self, X: Any, y: Any) -> OfNumbers:
        rows = validate_data(self, X, accept_sparse=False)
        super().fit(_written(rows), y)
        self.n_features_in_ = rows.shape[1]
        return self

    def predict_log_proba(self, X: Any) -> np.ndarray:
        if not hasattr(self, "prompt_"):
            return super().predict_log_proba(["unfitted"])
        return super().predict_log_proba(_written(validate_data(self, X, reset=False)))

    def __getstate__(self) -> dict[str, Any]:
        self_without = {**vars(self), "backbone": ""}
        plain = PromptClassifier.__new__(PromptClassifier)
        plain.__dict__.update(self_without)
        return PromptClassifier.__getstate__(plain)

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self.backbone = tiny()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array, tags.input_tags.two_d_array = False, True
        tags.input_tags.string = False
        return tags


def _written(rows: np.ndarray) -> list[str]:
    return [" ".join(f"{number:.2g}" for number in row[:4]) for row in rows]


FAILED = {
    "check_classifiers_train": "wants 83 % right on blobs of numbers after one step of a random model",
}
"""Checks that ask for what text and a single step cannot give, with the reason."""


QUICK = frozenset({
    "check_estimator_cloneable", "check_estimator_repr", "check_no_attributes_set_in_init", "check_valid_tag_types",
    "check_do_not_raise_errors_in_init_or_set_params", "check_get_params_invariance", "check_set_params",
    "check_parameters_default_constructible", "check_mixin_order", "check_estimators_unfitted",
    "check_fit_score_takes_y", "check_dont_overwrite_parameters", "check_estimators_overwrite_params",
    "check_requires_y_none", "check_classifiers_one_label",
})  # fmt: skip
"""Checks that fit once or never; the others fit many rows, many times."""


def _checks() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [check for _, check in estimator_checks_generator(OfNumbers())]
    return [check if _name(check) in QUICK else pytest.param(check, marks=pytest.mark.slow) for check in found]


def _name(check: Any) -> str:
    return str(getattr(check, "func", check).__name__)


@pytest.mark.parametrize("check", _checks(), ids=_name)
def test_scikit_learn_finds_nothing_amiss(check: Callable[[BaseEstimator], None]) -> None:
    if _name(check) in FAILED:
        pytest.skip(FAILED[_name(check)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(OfNumbers())


def test_as_it_is_it_says_that_it_takes_text() -> None:
    tags = get_tags(PromptClassifier())
    assert (tags.input_tags.string, tags.input_tags.one_d_array, tags.input_tags.two_d_array) == (True, True, False)
    assert (tags.estimator_type, tags.target_tags.required) == ("classifier", True)
    with pytest.warns(SkipTestWarning, match="Can't test estimator PromptClassifier which requires input"):
        check_estimator(PromptClassifier(tiny(), steps=1, race=False))

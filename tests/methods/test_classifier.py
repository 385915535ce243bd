"""`PromptClassifier` behaves as scikit-learn asks of a classifier, on text."""

from __future__ import annotations

import inspect
import pickle  # noqa: TID251 - what joblib does to an estimator
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import softprompt as sp
from softprompt.backbones import backbone as backbones
from softprompt.errors import ConfigError, DataError, IncompatiblePromptError, TemplateError, UnknownNameError
from softprompt.methods import shared_model
from softprompt.methods.classifier import PromptClassifier
from softprompt.tasks.readout_kinds import Scalar
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows
from softprompt.training.config import TrainConfig

QUICK = {"steps": 1, "race": False, "virtual_tokens": 2, "validation_rows": 4}
ROWS = toy_rows(24)
X = [row["text"] for row in ROWS]
Y = [row["label"] for row in ROWS]


@pytest.fixture(scope="module")
def tiny() -> sp.Backbone:
    return tiny_backbone("llama")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: sp.Backbone) -> str:
    """A backbone that can be named."""
    path = tmp_path_factory.mktemp("tiny")
    tiny.model.save_pretrained(path)
    tiny.tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backbones that were loaded, in order."""
    seen: list[str] = []
    real = backbones.load_backbone

    def counted(source: str, **how: Any) -> sp.Backbone:
        seen.append(source)
        return real(source, **how)

    monkeypatch.setattr(backbones, "load_backbone", counted)
    return seen


@pytest.fixture(scope="module")
def fitted(tiny: sp.Backbone) -> PromptClassifier:
    return PromptClassifier(tiny, **QUICK).fit(X, Y)


# --- what it learns and says ----------------------------------------------------------------------------------------


def test_it_learns(tiny: sp.Backbone) -> None:
    settings = {"race": False, "steps": 40, "learned_rows": True, "learning_rate": 0.05}
    made = PromptClassifier(tiny, **settings).fit(X, Y)
    assert made.score(X, Y) > 0.8
    assert made.prompt_.has_rows
    assert made.report_ is None


def test_its_answers_are_those_of_its_prompt(fitted: PromptClassifier, tiny: sp.Backbone) -> None:
    found = sp.PromptedModel(tiny).score([{"text": text} for text in X], fitted.prompt_)
    assert fitted.classes_.tolist() == ["negative", "positive"]
    assert fitted.predict(X).tolist() == [answer.label for answer in found]
    expected = [[answer.probabilities[label] for label in fitted.classes_] for answer in found]
    assert fitted.predict_proba(X) == pytest.approx(np.array(expected), abs=1e-6)
    assert np.exp(fitted.predict_log_proba(X)).sum(axis=1) == pytest.approx(1)
    assert (fitted.n_features_in_, hasattr(fitted, "feature_names_in_")) == (1, False)


def test_the_same_random_state_gives_the_same_prompt(tiny: sp.Backbone, fitted: PromptClassifier) -> None:
    again = clone(fitted).fit(np.array(X), pd.Series(Y))
    assert again.prompt_.digest == fitted.prompt_.digest
    other = PromptClassifier(tiny, **QUICK, init="random", random_state=np.random.RandomState(3)).fit(X, Y)
    same = PromptClassifier(tiny, **QUICK, init="random", random_state=np.random.RandomState(3)).fit(X, Y)
    assert other.prompt_.digest == same.prompt_.digest != fitted.prompt_.digest


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["no", "yes"], ("no", "yes")),
        ([0, 1], ("0", "1")),
        ([10, 9], ("9", "10")),
        ([2.0, 1.0], ("1", "2")),
        ([True, False], ("false", "true")),
        (np.array(["b", "a"], dtype=object), ("a", "b")),
    ],
)
def test_classes_of_any_type_come_back_as_they_were(tiny: sp.Backbone, values: Any, labels: tuple[str, ...]) -> None:
    y = np.asarray(values)[np.arange(len(X)) % 2]
    made = PromptClassifier(tiny, **QUICK).fit(X, y)
    assert made.classes_.dtype == y.dtype
    assert made.prompt_.readout.labels == labels
    assert set(made.predict(X)) <= set(y)


def test_words_for_classes(tiny: sp.Backbone) -> None:
    y = [row["label"] == "positive" for row in ROWS]
    made = PromptClassifier(tiny, **QUICK, label_words={True: "great", False: "dull"}, label="mood").fit(X, y)
    assert made.prompt_.readout.words == (" dull", " great")
    assert made.prompt_.template.pattern == "{bos}{soft}Text: {text}\nMood:"
    with pytest.raises(UnknownNameError, match="unknown class in label_words `maybe`"):
        PromptClassifier(tiny, **QUICK, label_words={"maybe": "hm"}).fit(X, y)


def test_a_report_where_it_is_asked_for(fitted: PromptClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def trained(backbone: sp.Backbone, task: sp.Task, config: TrainConfig, run: str) -> Any:
        asked.append({split: len(rows) for split, rows in task.splits.items()})
        assert config.report == ("test" in task.splits)
        return SimpleNamespace(prompt=fitted.prompt_, report="card" if config.report else None)

    monkeypatch.setattr("softprompt.methods.classifier.train", trained)
    assert clone(fitted).set_params(report=True).fit(X, Y).report_ == "card"
    assert clone(fitted).fit(X, Y).report_ is None
    assert asked == [{"train": 16, "test": 5, "validation": 3}, {"train": 20, "validation": 4}]


# --- columns of text ------------------------------------------------------------------------------------------------

PAIRS = pd.DataFrame({"premise": X, "stars": range(len(X)), "claim": X[::-1]})


def test_pairs_are_shown_by_their_names(tiny: sp.Backbone) -> None:
    made = PromptClassifier(tiny, **QUICK, text=["premise", "claim"]).fit(PAIRS, Y)
    assert made.prompt_.template.fields == ("premise", "claim")
    assert made.feature_names_in_.tolist() == ["premise", "claim"]
    assert made.n_features_in_ == 2
    turned = made.predict_log_proba(PAIRS[["claim", "premise"]])
    assert np.array_equal(turned, made.predict_log_proba(PAIRS))
    assert np.array_equal(turned, made.predict_log_proba(PAIRS[["premise", "claim"]].to_numpy()))
    with pytest.raises(DataError, match="X has no column `claim`; its columns are `premise`, `clam`; did you mean `cl"):
        made.predict(PAIRS[["premise"]].assign(clam=""))
    with pytest.raises(DataError, match="X has 3 features, but PromptClassifier is expecting 2 features as input"):
        made.predict(PAIRS.to_numpy(dtype=object))


def test_a_template_names_the_columns(tiny: sp.Backbone) -> None:
    pattern = "{bos}{soft}{claim} ({stars})\n"
    made = PromptClassifier(tiny, **QUICK, template=pattern).fit(PAIRS, Y)
    assert made.prompt_.template.pattern == pattern
    assert made.prompt_.readout.words == ("negative", "positive")
    assert made.columns_ == ("claim", "stars")
    with pytest.raises(
        TemplateError, match=r"the template asks for `\{claim\}`, and the columns of text are `premise`"
    ):
        PromptClassifier(tiny, **QUICK, template=pattern, text="premise").fit(PAIRS, Y)


@pytest.mark.parametrize("same", [np.array(X), np.array(X)[:, None], pd.Series(X), pd.DataFrame({"text": X}), tuple(X)])
def test_one_column_in_any_shape(same: Any, fitted: PromptClassifier) -> None:
    assert np.array_equal(fitted.predict_proba(same), fitted.predict_proba(X))
    again = clone(fitted).fit(same, Y)
    assert again.prompt_.digest == fitted.prompt_.digest
    assert hasattr(again, "feature_names_in_") == isinstance(same, pd.DataFrame)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("a gripping film", "X is one text, 'a gripping film'; give a list of texts"),
        ([], r"X has 0 sample(s), while a minimum of 1 is required"),
        (pd.DataFrame(index=range(24)), "X has 0 feature(s) (shape=(24, 0)) while a minimum of 1 is required"),
        (np.ones((24, 2)), "X is an array of float64; PromptClassifier reads texts: give strings"),
        (np.full((24, 1, 1), "x"), "X is of shape (24, 1, 1). Reshape your data: give texts"),
        ([3, *X[1:]], "row 0 of X holds a int, not text"),
        ([*X[:-1], None], "row 23 of X: the column `text` is empty (None); fill it in, or take the row out"),
        (pd.DataFrame({"a": [float("nan"), *X[1:]]}), "row 0 of X: the column `a` is empty (nan)"),
        ([X[:2], *([x] for x in X[1:])], "row 0 of X holds a list, not text"),
        (np.array([X, X]).T, "X has 2 columns without names; give a data frame, or name them with text=[...]"),
        (X[:5], "Found input variables with inconsistent numbers of samples: [5, 24]"),
    ],
)
def test_what_is_no_text_is_said(tiny: sp.Backbone, wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        PromptClassifier(tiny, **QUICK).fit(wrong, Y)


# --- few rows, and wrong classes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 10])
def test_few_rows_and_one_row_of_a_class(tiny: sp.Backbone, count: int) -> None:
    made = PromptClassifier(tiny, **QUICK).fit(X[:count], ["rare", *["usual"] * (count - 1)])
    assert made.predict_proba(X).shape == (24, 2)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["spam"] * 24, "y has one class, `spam`; a classifier needs rows of at least two classes"),
        (None, "requires y to be passed, but the target y is None"),
        (np.linspace(0, 1, 24), "Unknown label type: continuous"),
        ([float("nan"), *range(23)], "Input y contains NaN"),
        ([[0, 1]] * 24, "y should be a 1d array"),
        (np.array(["1", 1] * 12, dtype=object), r"y holds values that have no order \(int, str\)"),
        (np.array([True, 1.5] * 12, dtype=object), "Unknown label type"),
        (["a", "a "] * 12, "the labels `a` and `a ` have the same words `a`"),
    ],
)
def test_what_is_no_class_is_said(tiny: sp.Backbone, y: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        PromptClassifier(tiny, **QUICK).fit(X, y)


def test_a_class_that_one_fold_alone_has(tiny: sp.Backbone) -> None:
    y = ["odd", *Y[1:]]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class in y")
        scores = cross_val_score(PromptClassifier(tiny, **QUICK), X, y, cv=3, error_score="raise")
    assert np.isfinite(scores).all()


def test_weights_of_rows_are_no_argument(tiny: sp.Backbone) -> None:
    with pytest.raises(TypeError, match="sample_weight"):
        PromptClassifier(tiny, **QUICK).fit(X, Y, sample_weight=np.ones(24))  # type: ignore[call-arg]
    assert PromptClassifier(tiny, **QUICK, class_weights="balanced").fit(X, Y).score(X, Y, np.ones(24)) >= 0


# --- settings -------------------------------------------------------------------------------------------------------


def test_settings_have_the_names_and_defaults_of_training() -> None:
    given = {name: p.default for name, p in inspect.signature(PromptClassifier).parameters.items()}
    known = {name: field.default for name, field in TrainConfig.model_fields.items()}
    apart = {"report": False, "settings": None}  # no report: scikit-learn judges; no list or dict is a default
    shared = {name: value for name, value in given.items() if name in known}
    assert shared == {name: apart.get(name, known[name]) for name in shared}
    run_alone = {"seed", "ensemble", "init_prompt", "checkpoint_every", "checkpoint_layers", "compile_layers"}
    report_alone = {"test_rows", "probe_rows", "abstain_accuracy"}
    assert set(known) - set(shared) == run_alone | report_alone


def test_a_setting_that_cannot_be(tiny: sp.Backbone) -> None:
    with pytest.raises(ConfigError, match="option `virtual_tokens` is 0"):
        PromptClassifier(tiny, virtual_tokens=0).fit(X, Y)
    with pytest.raises(UnknownNameError, match="scoring"):
        PromptClassifier(tiny, **QUICK, scoring="tree").fit(X, Y)
    with pytest.raises(ValueError, match="Invalid parameter 'rate'"):
        PromptClassifier(tiny).set_params(rate=1)


def test_nothing_is_known_before_fit(tiny: sp.Backbone, tmp_path: Path) -> None:
    for ask in (PromptClassifier(tiny).predict, PromptClassifier(tiny).predict_proba):
        with pytest.raises(NotFittedError):
            ask(X)
    with pytest.raises(NotFittedError):
        PromptClassifier(tiny).save(tmp_path / "prompt.safetensors")


# --- scikit-learn around it -----------------------------------------------------------------------------------------


def test_clones_share_a_loaded_backbone(tiny: sp.Backbone, fitted: PromptClassifier) -> None:
    made = clone(PromptClassifier(tiny, text=["a", "b"]))
    assert made.backbone is tiny
    assert made.text == ["a", "b"]
    assert not hasattr(clone(fitted), "prompt_")


def test_cross_validation_loads_a_backbone_once(folder: str, loads: list[str]) -> None:
    made = PromptClassifier(folder, **QUICK, dtype="fp32")
    assert len(cross_val_score(made, X, Y, cv=2, error_score="raise")) == 2
    assert loads == [folder]
    search = GridSearchCV(made, {"learning_rate": [0.01], "virtual_tokens": [1, 2]}, cv=2, error_score="raise")
    search.fit(X, Y)
    assert loads == [folder]
    assert search.best_estimator_.prompt_.length == search.best_params_["virtual_tokens"]
    stranger = PromptClassifier(folder, **QUICK, dtype="fp32").fit(X, Y)  # the model is there as long as someone has it
    assert loads == [folder]
    del made, search, stranger
    assert not shared_model._LOADED


def test_another_backbone_is_another_place(folder: str, tiny: sp.Backbone, loads: list[str]) -> None:
    made = PromptClassifier(folder, **QUICK, dtype="fp32").fit(X, Y)
    twin = clone(made).set_params(backbone=tiny_backbone("gpt2"))
    twin.fit(X, Y)
    assert made.predict(X).shape == twin.predict(X).shape
    assert loads == [folder]
    with pytest.raises(IncompatiblePromptError, match="the prompt was trained on"):
        made.set_params(backbone=tiny_backbone("gpt2")).predict(X)


def test_it_stands_in_a_pipeline(tiny: sp.Backbone) -> None:
    def lowered(texts: Any) -> list[str]:
        return [text.lower() for text in texts]

    line = make_pipeline(FunctionTransformer(lowered), PromptClassifier(tiny, **QUICK))
    line.fit([text.upper() for text in X], Y)
    assert np.array_equal(line.predict_proba(X), line.predict_proba([text.upper() for text in X]))
    assert line.classes_.tolist() == ["negative", "positive"]
    assert clone(line)[-1].backbone is tiny
    assert np.isfinite(cross_val_score(line, X, Y, cv=2, scoring="neg_log_loss", error_score="raise")).all()


# --- kept and read again --------------------------------------------------------------------------------------------


def test_pickled_without_its_backbone(folder: str, loads: list[str]) -> None:
    made = PromptClassifier(folder, **QUICK, dtype="fp32").fit(X, Y)
    expected = made.predict_proba(X)
    data = pickle.dumps(made)
    assert len(data) < 40_000 < sum(path.stat().st_size for path in Path(folder).iterdir())
    del made
    again = pickle.loads(data)
    assert loads == [folder]
    assert np.array_equal(again.predict_proba(X), expected)
    assert loads == [folder, folder]
    assert np.array_equal(pickle.loads(pickle.dumps(again)).predict_proba(X), expected)
    assert loads == [folder, folder]
    unfitted = pickle.loads(pickle.dumps(PromptClassifier(folder)))
    assert unfitted.get_params() == PromptClassifier(folder).get_params()


def test_a_loaded_backbone_is_not_pickled(fitted: PromptClassifier) -> None:
    with pytest.raises(
        ConfigError, match=r"a loaded backbone \(`tiny-llama`\) cannot be pickled; give `backbone` by n"
    ):
        pickle.dumps(fitted)


def test_saved_and_read_again(fitted: PromptClassifier, tiny: sp.Backbone, tmp_path: Path) -> None:
    fitted.save(tmp_path / "mood.safetensors")
    again = PromptClassifier.from_prompt(tmp_path / "mood.safetensors", tiny)
    assert np.array_equal(again.predict_proba(X), fitted.predict_proba(X))
    assert np.array_equal(again.predict_proba(pd.DataFrame({"review": X})), fitted.predict_proba(X))
    numbered = PromptClassifier.from_prompt(fitted.prompt_, tiny, classes=[-1, 1], steps=3)
    assert set(numbered.predict(X)) <= {-1, 1}
    assert numbered.steps == 3
    assert PromptClassifier.from_prompt(fitted.prompt_).backbone == "tiny-llama"


def test_prompts_that_are_no_classifiers(fitted: PromptClassifier, tiny: sp.Backbone) -> None:
    kept = fitted.prompt_
    with pytest.raises(ConfigError, match=r"3 classes for the prompt's 2 labels \(negative, positive\); give one for"):
        PromptClassifier.from_prompt(kept, tiny, classes=[1, 2, 3])
    nameless = sp.SoftPrompt(kept.tensors, kept.template, kept.readout, kept.fingerprint)
    with pytest.raises(ConfigError, match="does not say which backbone it was trained on; give `backbone`"):
        PromptClassifier.from_prompt(nameless)
    number = sp.SoftPrompt(kept.tensors, kept.template, Scalar(0.0, 1.0, (" low", " high")), kept.fingerprint)
    with pytest.raises(ConfigError, match="the prompt's answers are read as `scalar`, and a classifier's are labels"):
        PromptClassifier.from_prompt(number, tiny)

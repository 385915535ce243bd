"""`PromptClassifier`: a soft prompt behind scikit-learn's interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted

from softprompt.backbones.backbone import Backbone
from softprompt.errors import ConfigError
from softprompt.methods.class_task import Written, classes_of, task_of
from softprompt.methods.shared_model import SharedModel
from softprompt.methods.text_table import TextTable
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.prompts.manifest import name_of
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.shapes import Float
from softprompt.tasks.readout import LabelWords
from softprompt.training.config import TrainConfig
from softprompt.training.train import train


class PromptClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    r"""Classify text with a soft prompt on a frozen backbone, as a scikit-learn estimator.

    `fit` is `softprompt.train` (Lester et al. 2021, arXiv 2104.08691) on the given rows, 15 % of which choose; its
    settings are parameters here under their own names and with their own defaults, but that no report card is made
    unless `report=True`: scikit-learn judges. Clones share one loaded backbone.

    >>> clf = PromptClassifier("gemma-3-270m", steps=50, race=False)
    >>> clf.get_params()["virtual_tokens"]
    20

    Args:
        backbone: a packaged name, hub id, folder or `.gguf`, loaded when it is needed; or a loaded `Backbone`. Only
            with the former can an estimator be pickled, as `n_jobs` does it.
        text: the columns of X that are shown, in order; by default the template's, else all.
        template: the pattern of a row, such as `"{bos}{soft}Text: {text}\nLabel:"`; by default one is written.
        label: what the answer is called in the template that is written.
        label_words: what the model would write for a class, by class: `{0: "negative", 1: "positive"}`. Others are
            shown by their names, numbers as numbers.
        scoring: `trie` or `full`, of label words.
        max_tokens: longest row in tokens, virtual tokens included.
        race: let candidates race for the first steps and train the winner on; below 500 rows there is none.
        budget: what it may take, such as `"5m"` or `"200 steps"`.
        parameterization, settings, learned_rows, exportable, virtual_tokens, init, init_text, learning_rate, steps,
            extend, batch_size, batch_tokens, warmup, weight_decay, clip, class_weights, select, tokens_at_once,
            validate_every, validation_rows, patience: as in `TrainConfig`.
        report: set a fifth of the rows aside for a report card; below 500 rows, cross-fit it by five more prompts.
        random_state: of the division of rows, their order and random first values.
        device: where the backbone is loaded; by default the GPU if there is one.
        dtype: what it is loaded in; by default bf16 where the hardware computes in it.

    Attributes:
        classes_: the values of y, sorted, C of them.
        n_features_in_: columns of text.
        feature_names_in_: their names, where X was a data frame.
        prompt_: the `SoftPrompt`.
        report_: the `ReportCard`; `None` without `report`.
    """

    def __init__(
        self,
        backbone: str | Path | Backbone = "gemma-3-270m",
        *,
        text: str | Sequence[str] | None = None,
        template: str | None = None,
        label: str = "label",
        label_words: Mapping[Any, str] | None = None,
        scoring: str = "trie",
        max_tokens: int | None = None,
        race: bool = True,
        budget: str | None = None,
        parameterization: str | None = None,
        settings: Mapping[str, float | int | str] | None = None,
        learned_rows: bool | None = None,
        exportable: bool = False,
        virtual_tokens: int = 20,
        init: str | None = None,
        init_text: str | None = None,
        learning_rate: float | None = None,
        steps: int | None = None,
        extend: int | None = None,
        batch_size: int = 24,
        batch_tokens: int | None = None,
        warmup: float = 0.07,
        weight_decay: float = 0.0,
        clip: float = 1.0,
        class_weights: str = "none",
        select: str = "loss",
        tokens_at_once: int | None = None,
        validate_every: int = 60,
        validation_rows: int = 512,
        patience: int = 3,
        report: bool = False,
        random_state: int | np.random.RandomState | None = 0,
        device: str | None = None,
        dtype: str | None = None,
    ) -> None:
        self.backbone, self.device, self.dtype, self.random_state = backbone, device, dtype, random_state
        self.text, self.template, self.label, self.label_words = text, template, label, label_words
        self.scoring, self.max_tokens = scoring, max_tokens
        self.race, self.budget, self.report = race, budget, report
        self.parameterization, self.settings, self.learned_rows, self.exportable = (
            parameterization,
            settings,
            learned_rows,
            exportable,
        )
        self.virtual_tokens, self.init, self.init_text = virtual_tokens, init, init_text
        self.learning_rate, self.steps, self.extend = learning_rate, steps, extend
        self.batch_size, self.batch_tokens, self.tokens_at_once = batch_size, batch_tokens, tokens_at_once
        self.warmup, self.weight_decay, self.clip = warmup, weight_decay, clip
        self.class_weights, self.select = class_weights, select
        self.validate_every, self.validation_rows, self.patience = validate_every, validation_rows, patience

    def fit(self, X: Any, y: Any) -> Self:
        """Train a soft prompt on texts X [N] (or [N, K], or a data frame) and their classes y [N].

        Weights of single rows have no counterpart in the training and are no argument; `class_weights="balanced"`
        counts rare classes for more.

        Raises:
            DataError: X or y cannot be used, or y has one class only.
            ConfigError: a setting that cannot be.
            SoftPromptError: as for `load_backbone` and `train`.
        """
        table = TextTable.read(X)
        classes, codes = classes_of(y)
        check_consistent_length(table.columns[0], codes)
        config = self._config()
        task, names = task_of(table, codes, self._written(classes), seed=config.seed, judged=config.report)
        with TemporaryDirectory(prefix="softprompt-") as run:
            result = train(self._model().backbone, task, config, run=run)
        self._keep(result.prompt, classes, names, named=table.names is not None)
        self.report_ = result.report
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the likeliest class of each text, [N].

        Raises:
            DataError: X cannot be used, or has other columns than in `fit`.
            NotFittedError: nothing was fitted yet.
        """
        likeliest = self.predict_log_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[likeliest])

    def predict_proba(self, X: Any) -> Float[np.ndarray, "N C"]:
        """Return the calibrated probability of each class, in the order of `classes_`, [N, C].

        Raises:
            DataError, NotFittedError: as for `predict`.
        """
        return np.asarray(np.exp(self.predict_log_proba(X)))

    def predict_log_proba(self, X: Any) -> Float[np.ndarray, "N C"]:
        """Return the logarithms of `predict_proba`, [N, C].

        Raises:
            DataError, NotFittedError: as for `predict`.
        """
        check_is_fitted(self)
        rows = TextTable.read(X).texts(self.columns_, named=hasattr(self, "feature_names_in_"))
        found = self._model().score_labels(rows, self.prompt_).log_probabilities.double()
        return np.asarray(torch.log_softmax(found / self.prompt_.temperature, dim=-1).cpu())

    def save(self, path: str | Path) -> None:
        """Write the prompt to a file of its own, which `from_prompt` and every part of softprompt reads.

        Raises:
            NotFittedError: nothing was fitted yet.
            StorageError: the disk is full, or the file may not be written.
        """
        check_is_fitted(self)
        self.prompt_.save(path)

    @classmethod
    def from_prompt(
        cls,
        prompt: SoftPrompt | str | Path,
        backbone: str | Path | Backbone | None = None,
        *,
        classes: Sequence[Any] | None = None,
        **params: Any,
    ) -> Self:
        """Return a fitted classifier that answers with a prompt that exists.

        Args:
            prompt: the prompt, or its file.
            backbone: the one that it was trained on; by default what the prompt says.
            classes: what to predict for each of its labels, in their order; by default the labels.
            params: further parameters of the estimator.

        Raises:
            ConfigError: its answers are no labels, their number is not that of `classes`, or nothing says which
                backbone it was trained on.
            PromptFileError: the file is no prompt.
        """
        prompt = prompt if isinstance(prompt, SoftPrompt) else SoftPrompt.load(prompt)
        source = backbone if backbone is not None else name_of(prompt.provenance.get("backbone"))
        if source is None:
            raise ConfigError("the prompt does not say which backbone it was trained on; give `backbone`")
        if not isinstance(prompt.readout, LabelWords):
            raise ConfigError(
                f"the prompt's answers are read as `{prompt.readout.kind}`, and a classifier's are labels"
            )
        labels = prompt.readout.labels if classes is None else tuple(classes)
        if len(labels) != len(prompt.readout.labels):
            raise ConfigError(
                f"{len(labels)} classes for the prompt's {len(prompt.readout.labels)} labels "
                f"({', '.join(prompt.readout.labels)}); give one for each, in this order"
            )
        made = cls(source, **params)
        made._keep(prompt, np.asarray(labels), prompt.template.fields, named=False)
        made.report_ = None
        return made

    def _config(self) -> TrainConfig:
        own = {name: value for name, value in self.get_params(deep=False).items() if name in TrainConfig.model_fields}
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        return TrainConfig.read(**own, seed=int(seed))

    def _written(self, classes: np.ndarray) -> Written:
        asked = (self.text,) if isinstance(self.text, str) else self.text
        return Written(classes, asked, self.template, self.label, self.label_words, self.scoring, self.max_tokens)

    def _keep(self, prompt: SoftPrompt, classes: np.ndarray, names: Sequence[str], *, named: bool) -> None:
        self.prompt_, self.classes_, self.columns_ = prompt, classes, tuple(names)
        self.n_features_in_ = len(names)
        if named:
            self.feature_names_in_ = np.asarray(names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _model(self) -> PromptedModel:
        asked = (self.backbone, self.device, self.dtype)
        if not self._share().serves(*asked):  # a parameter was set anew, which is no business of the clones
            self._shared = SharedModel()
        return self._share().model(*asked)

    def _share(self) -> SharedModel:
        if not hasattr(self, "_shared"):
            self._shared = SharedModel()
        return self._shared

    def __sklearn_clone__(self) -> Self:
        """Clone without copying a loaded backbone, and share the place of one that is still to be loaded."""
        plain = type(self).__new__(type(self))
        plain.__dict__.update(vars(self), backbone="")
        made: Self = super(PromptClassifier, plain).__sklearn_clone__()
        made.backbone = self.backbone
        made._shared = self._share()
        return made

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False  # of numbers, which is what scikit-learn would hand over
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Return all but the backbone; the prompt as the bytes of its file.

        Raises:
            ConfigError: the backbone was given loaded.
        """
        if isinstance(self.backbone, Backbone):
            raise ConfigError(
                f"an estimator with a loaded backbone (`{self.backbone.name}`) cannot be pickled; give `backbone` by "
                "name or path, and every process loads its own"
            )
        state = {name: value for name, value in super().__getstate__().items() if name != "_shared"}
        if "prompt_" in state:
            state["prompt_"] = self.prompt_.to_bytes()
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        known = dict(state)
        if "prompt_" in known:
            known["prompt_"] = SoftPrompt.from_bytes(known["prompt_"])
        super().__setstate__(known)

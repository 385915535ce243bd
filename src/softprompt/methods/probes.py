"""Linear probes: logistic regression on frozen features, its L2 penalty chosen by rows the fit did not see."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from softprompt.evaluation.metrics import calibrated
from softprompt.evaluation.probe import LinearProbe, fit_probe
from softprompt.evaluation.references import Features, Rows
from softprompt.methods.method import Course, Effort, Fitted, Readout
from softprompt.methods.scoring import Family, refuses_answers, tempered, written_for
from softprompt.shapes import Float
from softprompt.tasks.task import Example, Task
from softprompt.training.batches import sample
from softprompt.training.rivals import PENALTY_ROWS

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.methods.residents import SharedFeatures

_FLOAT_BYTES = 4


@dataclass(frozen=True, eq=False)
class Probed:
    """Answers rows by a probe on their features; no features are remembered.

    Attributes:
        features: describes rows.
        probe: reads them.
        temperature: log-probabilities are divided by it.
    """

    features: Features
    probe: LinearProbe
    temperature: float = 1.0

    def log_probabilities(self, examples: Sequence[Example]) -> Float[np.ndarray, "B C"]:
        """Return each row's log-probabilities of the task's labels, in their order."""
        return self._read(self.features(examples))

    def residents(self, count: int) -> SharedFeatures:
        """Put so many probes side by side: a row's features serve all of them."""
        from softprompt.methods.residents import SharedFeatures

        return SharedFeatures(self.features, [self._read] * count)

    def _read(self, features: Float[np.ndarray, "B D"]) -> Float[np.ndarray, "B C"]:
        return calibrated(self.probe.log_probabilities(features), self.temperature)


@dataclass(eq=False)
class Probe:
    """Logistic regression on one kind of features.

    Attributes:
        on: the backbone's hidden states, or the sentence embeddings of a packaged encoder.
    """

    on: Literal["hidden", "sentence"]
    name: str
    title: str
    source: str
    family: Family = "probe"
    base_rate: float | None = None
    readouts: tuple[Readout, ...] = ()
    changes: bool = False

    def refuses(self, backbone: Backbone, task: Task) -> str | None:
        """Refuse answers that are not one label."""
        return refuses_answers(task)

    def fit(self, backbone: Backbone, task: Task, seed: int, effort: Effort) -> Fitted:
        """Fit the probe on the training rows; effort changes nothing.

        Raises:
            MissingExtraError: the packaged sentence encoder is not installed.
        """
        task = written_for(backbone, task)
        features = _hidden_states(backbone, task) if self.on == "hidden" else _sentences(task)
        began = time.perf_counter()
        train = task.splits["train"]
        aside = sample(task.splits.get("validation", ()), PENALTY_ROWS, seed)
        learned, chosen_by, _ = Rows(task.labels, train, aside, ()).labelled(features)
        probe, _ = fit_probe(learned, chosen_by, len(task.labels), seed=seed)
        course = Course(examples=len(train), seconds=time.perf_counter() - began, stopped="the probe is fitted")
        predictor, loss = tempered(Probed(features, probe), task, seed)
        size = probe.weights.size + probe.bias.size
        notes = [f"the inverse of its L2 penalty is {probe.strength:g}"]
        if self.on == "sentence":
            notes.append("it needs a sentence encoder beside the backbone, which all tasks share and nobody counts")
        if not probe.converged:
            notes.append("the solver stopped before it converged")
        return Fitted(predictor, size, _FLOAT_BYTES * size, loss, course, notes=tuple(notes))


HIDDEN = Probe("hidden", "probe-hidden", "Linear probe on hidden states", "arXiv 1610.01644")
SENTENCE = Probe("sentence", "probe-sentence", "Linear probe on sentence embeddings", "arXiv 1908.10084")


def _hidden_states(backbone: Backbone, task: Task) -> Features:
    """The state that each row would be read by, the template's words around its fields."""
    from softprompt.evaluation.sources import Passes, stateful
    from softprompt.modeling.prompted_model import PromptedModel

    model = PromptedModel(backbone)
    bound = stateful(model, task.template, task.readout)

    def describe(examples: Sequence[Example]) -> np.ndarray:
        return Passes(model, bound, "hidden states").features(
            examples
        )  # a new one each time, so that nothing is remembered

    return describe


def _sentences(task: Task) -> Features:
    """The embeddings of each row's fields by the packaged encoder, which is loaded once."""
    from softprompt.backbones.encoder import SentenceEncoder
    from softprompt.evaluation.sources import SentenceFeatures

    encoder, fields = SentenceEncoder.packaged(), task.template.fields

    def describe(examples: Sequence[Example]) -> np.ndarray:
        return SentenceFeatures(fields, encoder)(examples)  # a new one each time, so that nothing is remembered

    return describe

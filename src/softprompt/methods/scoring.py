"""Answers from a prompt of any kind, hard or soft, over an unchanged backbone; and what a task must be for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeVar

import numpy as np

from softprompt.evaluation.calibration import fit_temperature
from softprompt.evaluation.evaluation import gold_indices
from softprompt.evaluation.metrics import calibrated, log_loss
from softprompt.shapes import Float
from softprompt.tasks.fitted import fitted_to
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.task import Example, Task
from softprompt.training.batches import sample
from softprompt.training.fitting import CALIBRATED_ON

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.methods.method import Predictor
    from softprompt.methods.residents import MixedPrompts
    from softprompt.modeling.bound import BoundPrompt
    from softprompt.modeling.prompted_model import PromptedModel

Family: TypeAlias = Literal["free", "probe", "prompt", "adapter", "weights"]
"""What a method is one of."""


@dataclass(frozen=True, eq=False)
class Scoring:
    """Answers rows behind one prompt, calibrated by its temperature.

    Attributes:
        model: the backbone, with the keys and values of prompts that are kept.
        bound: what stands in front of and around the fields; with a `key`, its shared prefix is computed once.
    """

    model: PromptedModel
    bound: BoundPrompt

    def log_probabilities(self, examples: Sequence[Example]) -> Float[np.ndarray, "B C"]:
        """Return each row's log-probabilities of the task's labels, in their order."""
        scores = self.model.score_labels([example.fields for example in examples], self.bound)
        return calibrated(scores.log_probabilities.cpu().numpy(), self.bound.temperature)

    def residents(self, count: int) -> MixedPrompts:
        """Put so many prompts of this size side by side; their rows share passes."""
        from softprompt.methods.residents import MixedPrompts

        return MixedPrompts(self.model, self.bound, count)


def written_for(backbone: Backbone, task: Task) -> Task:
    """Return a task as its rows are written for this kind of backbone."""
    return fitted_to(task, backbone.kind, masked="mask-readout" in backbone.capabilities)


def validation_loss(predictor: Predictor, task: Task) -> float:
    """Return the log loss on the validation rows that calibration sees too, in nats; infinite where there are none."""
    rows = sample(task.splits.get("validation", ()), CALIBRATED_ON, 0)
    if not rows:
        return float("inf")
    return log_loss(predictor.log_probabilities(rows), gold_indices(rows, task.labels))


class Tempered(Protocol):
    """A dataclass that answers rows at a temperature."""

    @property
    def temperature(self) -> float:
        """By which log-probabilities are divided."""
        ...

    def log_probabilities(self, examples: Sequence[Example]) -> Float[np.ndarray, "B C"]:
        """Return each row's log-probabilities of the task's labels, in their order."""
        ...


T = TypeVar("T", bound=Tempered)


def tempered(predictor: T, task: Task, seed: int) -> tuple[T, float]:
    """Return a predictor at the temperature by which the rows that calibrate prompts are answered best.

    What learns from rows is calibrated as our prompts are, by the very same validation rows, so that log loss and
    calibration error compare methods and not who was calibrated.

    Args:
        predictor: at a temperature of 1; it is left as it is.
        task: whose validation rows.
        seed: of their draw, where there are many.

    Returns:
        The predictor, and its log loss on those rows, in nats: what a search chooses by; infinite without rows.
    """
    rows = sample(task.splits.get("validation", ()), CALIBRATED_ON, seed)
    if not rows:
        return predictor, float("inf")
    found, gold = predictor.log_probabilities(rows), gold_indices(rows, task.labels)
    temperature = round(fit_temperature(found, gold).value, 6)
    made: T = replace(predictor, temperature=temperature)  # type: ignore[type-var]
    return made, log_loss(calibrated(found, temperature), gold)


def refuses_answers(task: Task) -> str | None:
    """Say why a task's answers are not one label each; None: they are."""
    if isinstance(task.readout, LabelWords):
        return None
    return f"answers of `{task.name}` are {task.readout.kind}; methods are compared where each answer is one label"


def refuses_words(backbone: Backbone, task: Task) -> str | None:
    """Say why the labels' words cannot be scored by the backbone's own output rows; None: they can."""
    from softprompt.modeling.reader import words_refused

    refused = refuses_answers(task)
    if refused is not None:
        return refused
    fitted = written_for(backbone, task)
    cannot = words_refused(backbone, fitted.readout, fitted.template)
    return None if cannot is None else str(cannot)


def refuses_others_than_decoders(backbone: Backbone, what: str) -> str | None:
    """Say that something is for decoders only; None: the backbone is one."""
    if backbone.kind == "decoder":
        return None
    return f"{what} is for decoders, and `{backbone.name}` is an {backbone.kind}"

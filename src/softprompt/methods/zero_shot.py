"""The template alone: the backbone as it is, asked for the labels' words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from softprompt.methods.method import Effort, Fitted, Readout
from softprompt.methods.scoring import Family, Scoring, refuses_words, validation_loss, written_for

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.tasks.task import Task


@dataclass(eq=False)
class ZeroShot:
    """The task's template with nothing in its soft slots."""

    name: str = "zero-shot"
    title: str = "Zero-shot"
    family: Family = "free"
    base_rate: float | None = None
    readouts: tuple[Readout, ...] = ()
    changes: bool = False
    source: str = "the backbone as it is"

    def refuses(self, backbone: Backbone, task: Task) -> str | None:
        """Refuse answers that are not one label, and backbones that score no words."""
        return refuses_words(backbone, task)

    def fit(self, backbone: Backbone, task: Task, seed: int, effort: Effort) -> Fitted:
        """Write the template down; no row is learned from, and seed and effort change nothing."""
        from softprompt.modeling.prompted_model import PromptedModel

        fitted, model = written_for(backbone, task), PromptedModel(backbone)
        bound = replace(model.bare(fitted.template, fitted.readout), key="zero-shot")
        predictor = Scoring(model, bound)
        kept = len(fitted.template.pattern.encode())
        return Fitted(predictor, 0, kept, validation_loss(predictor, fitted))


ZERO_SHOT = ZeroShot()

"""A prompt written by hand: an instruction where the virtual tokens of a soft prompt would stand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from softprompt.methods.method import Effort, Fitted, Readout
from softprompt.methods.scoring import Family, Scoring, refuses_words, validation_loss, written_for

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.tasks.task import Task


@dataclass(eq=False)
class HardText:
    """An instruction in words, in front of each row.

    Attributes:
        text: the instruction; None: the one that names the labels, which soft prompts start from.
    """

    text: str | None = None
    name: str = "hard-prompt"
    title: str = "Hand-written prompt"
    family: Family = "free"
    base_rate: float | None = None
    readouts: tuple[Readout, ...] = ()
    changes: bool = False
    source: str = "the text that soft prompts start from"

    def refuses(self, backbone: Backbone, task: Task) -> str | None:
        """Refuse what scores no words, and templates that have no place for the text."""
        refused = refuses_words(backbone, task)
        if refused is None and not written_for(backbone, task).template.soft_slots:
            return f"the template `{task.template.pattern}` has no {{soft}} slot to write an instruction in"
        return refused

    def fit(self, backbone: Backbone, task: Task, seed: int, effort: Effort) -> Fitted:
        """Write the instruction down; no row is learned from, and seed and effort change nothing."""
        from softprompt.modeling.prompted_model import PromptedModel
        from softprompt.training.config import TrainConfig
        from softprompt.training.rivals import hard_text
        from softprompt.training.start import initial_text

        fitted, model, config = written_for(backbone, task), PromptedModel(backbone), TrainConfig(init_text=self.text)
        text = initial_text(config, fitted.template, fitted.readout)
        predictor = Scoring(model, replace(hard_text(model, fitted, config), key=f"hard text {text}"))
        kept = len((text + fitted.template.pattern).encode())
        return Fitted(predictor, 0, kept, validation_loss(predictor, fitted), notes=(f"the text is `{text.strip()}`",))


HARD_TEXT = HardText()

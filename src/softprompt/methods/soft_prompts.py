"""Soft prompts, ours: the default of `train`, and the kinds of the literature, each with words or learned rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt.methods.method import Effort, Fitted, Readout
from softprompt.methods.prompt_runs import course_of, fitted, run_folder, with_effort
from softprompt.methods.scoring import Family, refuses_answers, written_for
from softprompt.training.config import RATE, TrainConfig
from softprompt.training.lesson import LAYERED, Lesson
from softprompt.training.planning import Parts
from softprompt.training.provenance import settings_of
from softprompt.training.runs import resumed_or_anew

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.tasks.task import Task
    from softprompt.training.fitting import Fitted as Trained


@dataclass(eq=False)
class SoftPrompts:
    """One kind of soft prompt, trained as `softprompt train` does, without its report card.

    Attributes:
        parameterization: what trains; None: whatever `train` would choose.
    """

    name: str
    title: str
    source: str
    parameterization: str | None = None
    family: Family = "prompt"
    base_rate: float | None = RATE
    readouts: tuple[Readout, ...] = ("words", "rows")
    changes: bool = False

    def refuses(self, backbone: Backbone, task: Task) -> str | None:
        """Refuse answers that are not one label, templates without a soft slot, and layers that take no prompt."""
        refused = refuses_answers(task)
        if refused is not None:
            return refused
        if not written_for(backbone, task).template.soft_slots:
            return f"the template `{task.template.pattern}` has no {{soft}} slot for virtual tokens to stand in"
        if self.parameterization in LAYERED and "deep-prompts" not in backbone.capabilities:
            return f"`{backbone.name}` ({backbone.family.title}, {backbone.kind}) takes no keys and values from outside"
        return None

    def fit(self, backbone: Backbone, task: Task, seed: int, effort: Effort) -> Fitted:
        """Train a prompt on the training rows, chosen by the validation rows.

        In full and at its own rate the default is what a user gets, its race included. A search asks which rate is best
        and not which kind of prompt, so each of its trainings is one plain run of the default; and so is what it finds
        where that is another rate, since what races in `train` is tuned for its own. A bound on rows leaves none for a
        race.

        Raises:
            ConfigError: settings and backbone do not go together.
            UnsupportedBackboneError: the readout is `words`, and the backbone scores none.
            TrainingError: no step gave a finite loss.
            OutOfMemoryError: a step does not fit in memory.
        """
        from softprompt.modeling.prompted_model import PromptedModel
        from softprompt.training.fitting import fit

        task, model = written_for(backbone, task), PromptedModel(backbone)
        config = self.config(task, seed, effort)
        parts = Parts(task.splits["train"], task.splits.get("validation", ()))
        settings = settings_of(backbone, task, config, None)
        with run_folder(effort) as (folder, resume):
            kept = resumed_or_anew(
                lambda resume: fit(model, task, parts, config, folder, settings, resume=resume), resume=resume
            )
            course = course_of(kept, folder, len(parts.train))
        return fitted(model, task, kept, course, _trained(backbone, task, parts, kept), _notes(config, kept))

    def config(self, task: Task, seed: int, effort: Effort) -> TrainConfig:
        """Return the settings of a training."""
        short = effort.share < 1 or effort.examples is not None
        plain = self.parameterization is not None or effort.rate != 1 or short
        config = TrainConfig(
            race=not plain,
            parameterization=self.parameterization,
            learned_rows=effort.readout == "rows",
            learning_rate=None if effort.rate == 1 else RATE * effort.rate,
        )
        return with_effort(config, task, seed, effort)


def _trained(backbone: Backbone, task: Task, parts: Parts, kept: Trained) -> int:
    """Parameters of what trained: more than are kept, where a network makes the prompt."""
    lesson = Lesson("counted", kept.config, task.template, task.readout, parts.train, ())
    module, _ = lesson.begin(backbone)
    return sum(parameter.numel() for group in module.groups() for parameter in group.parameters)


def _notes(config: TrainConfig, kept: Trained) -> tuple[str, ...]:
    rows = " + learned rows" if kept.config.learned_rows else ""
    said = f"what trained is `{kept.config.parameterization}`{rows}, P = {kept.config.virtual_tokens}"
    if not kept.race:
        return (f"{said}, without a race" if config.parameterization is None else said,)
    count = len({row["candidate"] for row in kept.race})
    return (f"{said}: the winner of a race of {count}, whose rows and seconds are counted",)


SOFT = SoftPrompts("soft-prompt", "Soft prompt (ours)", "arXiv 2104.08691")
DEEP = SoftPrompts("deep-prompt", "Deep prompt (P-tuning v2)", "arXiv 2110.07602", "deep")
P_TUNING = SoftPrompts("p-tuning", "P-tuning (LSTM)", "arXiv 2103.10385", "lstm")
PREFIX = SoftPrompts("prefix-tuning", "Prefix tuning (with its network)", "arXiv 2101.00190", "deep-mlp")

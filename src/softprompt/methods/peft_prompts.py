"""PEFT's prompts: prompt tuning by its tutorial and by our settings, P-tuning, prefix tuning.

What trains, where it stands and what the loss is are PEFT's; logits are made at the answer's tokens alone, which is the
same loss, since all other places are masked out of it. Accuracy is read at the label words, as ours is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softprompt.methods.method import Course, Effort, Fitted, Readout
from softprompt.methods.peft_encoders import (
    Kind,
    PeftLesson,
    PeftPrompt,
    encoder_of,
    in_front,
    over_vocabulary,
    require_peft,
)
from softprompt.methods.prompt_runs import course_of, fitted, run_folder, with_effort
from softprompt.methods.scoring import Family, refuses_others_than_decoders, refuses_words, written_for
from softprompt.methods.token_rows import TokenRow, TokenRows
from softprompt.methods.tuning import PATIENCE, Plan, tune
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.flight import Flight
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.shapes import Float
from softprompt.training.budget import allowed
from softprompt.training.config import RATE, TrainConfig
from softprompt.training.fitting import Fitted as Trained
from softprompt.training.fitting import finished
from softprompt.training.learner import Fit
from softprompt.training.lesson import Lesson
from softprompt.training.planning import Parts
from softprompt.training.provenance import settings_of
from softprompt.training.runs import RunFolder, resumed_or_anew
from softprompt.training.start import initial_text
from softprompt.training.trainer import Trainer

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.tasks.task import Task

TUTORIAL_BATCH = 8
"""Rows a step in PEFT's tutorial."""


@dataclass(eq=False)
class PeftPrompts:
    """One of PEFT's prompts.

    Attributes:
        kind: what trains.
        base_rate: AdamW's; relative to the RMS of embedded tokens where `relative`.
        relative: the rate is relative and the first values are the text that ours start from: our settings.
        tutorial: it is trained as PEFT's tutorial does it: batches of 8, a rate that falls in a straight line.
    """

    name: str
    title: str
    kind: Kind
    base_rate: float | None
    source: str
    relative: bool = False
    tutorial: bool = False
    family: Family = "prompt"
    readouts: tuple[Readout, ...] = ()
    changes: bool = False

    def refuses(self, backbone: Backbone, task: Task) -> str | None:
        """Refuse other kinds of backbones than decoders, and what scores no words."""
        refused = refuses_others_than_decoders(backbone, "PEFT's prompt for causal models") or refuses_words(
            backbone, task
        )
        if refused is None and self.kind == "prefix-tuning" and "deep-prompts" not in backbone.capabilities:
            return f"`{backbone.name}` ({backbone.family.title}) takes no keys and values from outside"
        return refused

    def fit(self, backbone: Backbone, task: Task, seed: int, effort: Effort) -> Fitted:
        """Train the prompt on the training rows, chosen by the validation rows.

        By our settings, and for P-tuning and prefix tuning, it trains as ours do: their batches, schedule and steps,
        and extensions while validation still improves. By the tutorial it ends when validation no longer improves.

        Raises:
            MissingExtraError: `peft` is not installed.
            TrainingError: the loss is not finite.
            OutOfMemoryError: a step does not fit in memory.
        """
        require_peft()
        task = in_front(written_for(backbone, task))
        if self.tutorial:
            return _by_tutorial(self, backbone, task, seed, effort)
        model, config = PromptedModel(backbone), self.config(task, seed, effort)
        lesson = self.lesson(task, config)
        settings = {**settings_of(backbone, task, config, None), "peft": [self.kind, version("peft")]}
        with run_folder(effort) as (folder, resume):
            kept = resumed_or_anew(
                lambda resume: _trained(model, task, lesson, folder, settings, resume=resume), resume=resume
            )
            course = course_of(kept, folder, len(lesson.train))
        return fitted(model, task, kept, course, _count(lesson.begin(backbone)[0]), self.notes)

    def config(self, task: Task, seed: int, effort: Effort) -> TrainConfig:
        """Return the settings of a training that goes as ours do."""
        rate = (self.base_rate or RATE) * effort.rate
        config = TrainConfig(race=False, parameterization="direct", learned_rows=False, learning_rate=rate)
        return with_effort(config, task, seed, effort)

    def lesson(self, task: Task, config: TrainConfig) -> PeftLesson:
        """Return what PEFT's prompt learns: the task's rows, over the whole vocabulary."""
        text = initial_text(config, task.template, task.readout) if self.relative else None
        return PeftLesson(
            self.name, config, task.template, over_vocabulary(task), task.splits["train"],
            task.splits.get("validation", ()), peft=self.kind, text=text, relative=self.relative,
        )  # fmt: skip

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know."""
        return (
            f"PEFT {version('peft')}; its loss, over the vocabulary at the answer, with logits made nowhere else",
            "its rows are answered by our code, behind keys and values that are kept, which PEFT's own code does "
            "not do: what answering costs is what it costs here",
        )


def _trained(
    model: PromptedModel, task: Task, lesson: PeftLesson, folder: RunFolder, settings: dict[str, Any], *, resume: bool
) -> Trained:
    """Train PEFT's prompt by our trainer; it is kept as any prompt, read by the label words."""
    from softprompt.training.candidates import settled

    config = settled(lesson.config, task.template, task.readout, model.backbone, lesson.train)
    lesson = replace(lesson, config=config)
    going_on = folder.begin(settings, resume=resume)
    if config.budget is not None:
        steps, _ = allowed(config.budget, model, lesson, 1, folder.plan)
        lesson = replace(lesson, config=config.model_copy(update={"steps": min(steps, config.length)}))
    (done,) = Trainer(model, [lesson], folder).fit(resume=going_on)
    return finished(model, task, Parts(lesson.train, lesson.validation), lesson, done, settings)


class Documented:
    """PEFT's prompt tuning as its documentation trains it; see `tuning.Rival`.

    The loss is the mean over the answers' tokens; PEFT's own model makes logits at all others too, and drops them.

    Args:
        backbone: a decoder.
        task: with its virtual tokens in front.
        prompt: what trains.

    Attributes:
        virtual_tokens: P.
    """

    def __init__(self, backbone: Backbone, task: Task, prompt: PeftPrompt) -> None:
        self.virtual_tokens = prompt.tokens.numel()
        self._prompt, self._model = prompt.to(backbone.device), PromptedModel(backbone)
        start = {site: each.detach() for site, each in self._prompt.materialize().items()}
        self._learned = BoundPrompt.make(backbone, start, task.template, over_vocabulary(task))
        self._read = BoundPrompt.make(backbone, start, task.template, task.readout)
        words = task.readout.words
        self._tokens = [len(backbone.tokenizer.encode(word, add_special_tokens=False)) for word in words]

    @property
    def trained(self) -> int:
        """How many numbers train."""
        return _count(self._prompt)

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """Return PEFT's parameters."""
        return [{"params": list(self._prompt.parameters()), "lr": rate}]

    def loss(self, rows: Sequence[TokenRow]) -> Tensor:
        """Return the mean loss of the answers' tokens."""
        bound = self._learned.with_tensors(self._prompt.materialize())
        gold = [row.gold for row in rows]
        terms = self._model.gold_log_probabilities([row.own for row in rows], bound, gold)
        return -terms.sum() / sum(self._tokens[answer] for answer in gold)

    def label_logits(self, rows: Sequence[TokenRow]) -> Float[Tensor, "B C"]:
        """Return log-probabilities of the labels, by their words."""
        bound = self._read.with_tensors(self.tensors())
        found = self._model.begin(
            [row.own for row in rows], [bound] * len(rows), [None] * len(rows), Flight(self._model.backbone)
        )
        return torch.stack([each for each in found if each is not None])

    def tensors(self) -> dict[str, Tensor]:
        """Return the prompt as it stands, by site."""
        return {site: each.detach().clone() for site, each in self._prompt.materialize().items()}


def documented(backbone: Backbone, task: Task, seed: int) -> Documented:
    """Return prompt tuning as the tutorial starts it: the rows of a text about the labels, all of them.

    Args:
        backbone: a decoder.
        task: with its virtual tokens in front.
        seed: of what PEFT draws.

    Raises:
        MissingExtraError: `peft` is not installed.
    """
    text = tutorial_text(task)
    length = len(backbone.tokenizer.encode(text, add_special_tokens=False))
    return Documented(backbone, task, encoder_of(backbone, "prompt-tuning", length, seed, text=text))


def _by_tutorial(method: PeftPrompts, backbone: Backbone, task: Task, seed: int, effort: Effort) -> Fitted:
    """Train prompt tuning as the tutorial does, until validation stops improving or its rate has come down to zero."""
    rival = documented(backbone, task, seed)
    rows = TokenRows(backbone, task, seed, TUTORIAL_BATCH, front=rival.virtual_tokens)
    plan = Plan.of(rows.count, rows.even_labels, method.base_rate or 0.0, effort)
    plan = replace(plan, warmup=0, linear_to=plan.most, patience=2 * PATIENCE, second_patience=0)
    course = tune(rival, rows, plan, effort, title=method.title)
    model = PromptedModel(backbone)
    kept = _kept(model, task, rival, course, seed)
    return fitted(model, task, kept, course, rival.trained, method.notes)


def _kept(model: PromptedModel, task: Task, rival: Documented, course: Course, seed: int) -> Trained:
    """Keep the prompt that `tune` left, calibrated on the validation rows as ours are."""
    text = tutorial_text(task)
    best = min(course.points, key=lambda point: point.loss)
    tensors = {site: each.float().cpu() for site, each in rival.tensors().items()}
    config = TrainConfig(
        seed=seed, race=False, parameterization="direct", learned_rows=False, batch_size=TUTORIAL_BATCH,
        virtual_tokens=len(tensors["input"]), init_text=text,
    )  # fmt: skip
    done = Fit(
        tensors, f"text `{text.strip()}`", best.step, course.steps, {"loss": best.loss, "accuracy": best.accuracy},
        course.stopped, 0, course.examples, course.seconds,
    )  # fmt: skip
    parts = Parts(task.splits["train"], task.splits.get("validation", ()))
    lesson = Lesson("tutorial", config, task.template, task.readout, parts.train, parts.validation)
    settings = {**settings_of(model.backbone, task, config, None), "peft": ["prompt-tuning", version("peft")]}
    return finished(model, task, parts, lesson, done, settings)


def tutorial_text(task: Task) -> str:
    r"""Return the text that the tutorial's prompt would start from, for these labels.

    >>> from softprompt.tasks.load import load_task
    >>> task = load_task([{"text": f"{word} {n}", "label": word} for word in ("good", "bad") for n in range(10)])
    >>> tutorial_text(task)
    'Classify if the text is bad or good:\n'
    """
    words = [word.strip() for word in task.readout.words]
    return f"Classify if the {' and the '.join(task.template.fields)} is {', '.join(words[:-1])} or {words[-1]}:\n"


def _count(prompt: Any) -> int:
    return sum(parameter.numel() for parameter in prompt.parameters())


_DOCS = "PEFT's documentation"
OURS = PeftPrompts(
    "peft-prompt-tuning", "Prompt tuning (PEFT, our settings)", "prompt-tuning", RATE, "PEFT", relative=True
)
TUTORIAL = PeftPrompts(
    "peft-prompt-tuning-tutorial", "Prompt tuning (PEFT, tutorial)", "prompt-tuning", 3e-2, _DOCS, tutorial=True
)
P_TUNING = PeftPrompts("peft-p-tuning", "P-tuning (PEFT)", "p-tuning", 1e-3, "arXiv 2103.10385; PEFT")
PREFIX = PeftPrompts("peft-prefix-tuning", "Prefix tuning (PEFT)", "prefix-tuning", 1e-2, "arXiv 2101.00190; PEFT")

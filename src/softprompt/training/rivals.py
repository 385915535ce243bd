"""What costs nothing, ready to be judged on some rows: the references of a report card, by the kind of task."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

from softprompt.errors import TemplateError, UnsupportedBackboneError
from softprompt.evaluation.answer_references import (
    linear_probes,
    no_probe,
    ridge_probe,
    run_answer_references,
    word_probe,
)
from softprompt.evaluation.references import Features, Reference, Rows, run_references
from softprompt.evaluation.sources import Answering, Passes, SentenceFeatures, stateful
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.modeling.reader import words_refused
from softprompt.prompts.initializers import from_text
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.task import Example, Label, Task
from softprompt.training.config import TrainConfig
from softprompt.training.start import initial_text


@runtime_checkable
class Rivals(Protocol):
    """References that can be judged on some rows."""

    def judged(self, rows: Rows, config: TrainConfig) -> tuple[Reference, ...]:
        """Run them; a probe learns from at most `probe_rows` of train."""
        ...


def rivals_of(model: PromptedModel, task: Task, config: TrainConfig) -> Rivals:
    """Make the rivals of one task; what they compute of a row is computed once, whatever is asked again."""
    if isinstance(task.readout, LabelWords):
        return LabelRivals.of(model, task, config)
    return AnswerRivals(model, task, config)


PENALTY_ROWS = 500
"""Validation rows that the probe's penalty is chosen on at most: enough to choose one of nine."""


@dataclass(frozen=True)
class LabelRivals:
    """The rivals where an answer is one label: zero-shot scores and the probe's hidden states share their passes."""

    bare: Passes
    hard: Passes
    sentences: SentenceFeatures

    @classmethod
    def of(cls, model: PromptedModel, task: Task, config: TrainConfig) -> LabelRivals:
        """Make the rivals of one task."""
        bare, unsaid = _bound(model, task, lambda: model.bare(task.template, task.readout))
        hard, unsaid_too = _bound(model, task, lambda: hard_text(model, task, config))
        return cls(
            Passes(model, bare, unsaid=unsaid),
            Passes(model, hard, "hard text", unsaid_too),
            SentenceFeatures(task.template.fields),
        )

    def judged(self, rows: Rows, config: TrainConfig) -> tuple[Reference, ...]:
        """Run them on some rows; the probe learns from at most `probe_rows` of train."""
        features = (
            (f"hidden states of {self.bare.model.backbone.name}", self.bare.features),
            ("sentence embeddings", self.sentences),
        )
        return run_references(
            replace(
                rows, train=_first(rows.train, config.probe_rows), validation=_first(rows.validation, PENALTY_ROWS)
            ),
            zero_shot=self.bare.score,
            hard_text=self.hard.score,
            features=features,
            seed=config.seed,
        )


@dataclass(frozen=True, eq=False)
class AnswerRivals:
    """The rivals where answers are several labels, numbers, tags or text."""

    model: PromptedModel
    task: Task
    config: TrainConfig

    def judged(self, rows: Rows, config: TrainConfig) -> tuple[Reference, ...]:
        """Run them on some rows; a probe learns from at most `probe_rows` of train (in tagging: words)."""
        some = replace(rows, train=_first(rows.train, config.probe_rows))
        return run_answer_references(
            self.task.kind,
            rows,
            zero_shot=self._zero_shot,
            hard_text=self._hard_text,
            probe=lambda: self._probe(some, config),
        )

    @cached_property
    def _bare(self) -> Answering:
        model, task = self.model, self.task
        bound, unsaid = _bound(model, task, lambda: model.bare(task.template, task.readout))
        return Answering(model, bound, task.readout, unsaid=unsaid)

    @cached_property
    def _hard(self) -> Answering:
        model, task = self.model, self.task
        bound, unsaid = _bound(model, task, lambda: hard_text(model, task, self.config))
        return Answering(model, bound, task.readout, "hard text", unsaid)

    @cached_property
    def _sentences(self) -> SentenceFeatures:
        return SentenceFeatures(self.task.template.fields)

    def _zero_shot(self, examples: Sequence[Example]) -> list[Label]:
        return self._bare.answers(examples)

    def _hard_text(self, examples: Sequence[Example]) -> list[Label]:
        return self._hard.answers(examples)

    def _probe(self, rows: Rows, config: TrainConfig) -> Reference:
        kind, states = self.task.kind, f"hidden states of {self.model.backbone.name}"
        if kind == "tagging":
            return word_probe(rows, states, self._bare.words, config.probe_rows, seed=config.seed)
        if kind not in ("multi-label", "regression"):
            return no_probe("answers are text, which a linear model does not write")
        features: tuple[tuple[str, Features], ...] = (
            (states, self._bare.features),
            ("sentence embeddings", self._sentences),
        )
        fit = linear_probes if kind == "multi-label" else ridge_probe
        return fit(rows, features, seed=config.seed)


def _bound(model: PromptedModel, task: Task, make: Callable[[], BoundPrompt]) -> tuple[BoundPrompt, str]:
    """What scores words, or else gives states alone, with the reason."""
    refused = words_refused(model.backbone, task.readout, task.template)
    if refused is None:
        try:
            return make(), ""
        except (UnsupportedBackboneError, TemplateError) as error:
            if not task.readout.outputs:
                raise
            refused = error
    return stateful(model, task.template, task.readout), str(refused)


def hard_text(model: PromptedModel, task: Task, config: TrainConfig) -> BoundPrompt:
    """Return the initial text, once and whole, where the virtual tokens stand."""
    text = initial_text(config, task.template, task.readout)
    length = len(model.backbone.tokenizer.encode(text, add_special_tokens=False))
    rows = from_text(model.backbone, length, text).rows
    return BoundPrompt.make(model.backbone, {"input": rows}, task.template, task.readout)


def _first(rows: Sequence[Example], most: int) -> Sequence[Example]:
    """At most `most` rows, drawn with a fixed seed so that every rival of a run sees the same."""
    return rows if len(rows) <= most else random.Random(0).sample(list(rows), most)

"""The report card of a training run: which rows it uses, and which rivals it meets there."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from softprompt.evaluation.evaluate import Evaluation, evaluate
from softprompt.evaluation.figures import Trained
from softprompt.evaluation.references import Reference, Rows, pool_references, run_references
from softprompt.evaluation.report import ReportCard, report_card
from softprompt.evaluation.sources import Passes, SentenceFeatures
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.progress import say
from softprompt.prompts.initializers import from_text
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.splits import folds, source_of_chance
from softprompt.tasks.task import Example, Task
from softprompt.training.config import TrainConfig
from softprompt.training.fitting import Fitted, Parts, fit
from softprompt.training.learner import DONE
from softprompt.training.runs import RunFolder
from softprompt.training.start import initial_text

FOLDS = 5


@dataclass(frozen=True)
class Pooled:
    """Figures over all rows, each scored by a prompt that was trained without it."""

    evaluation: Evaluation
    references: tuple[Reference, ...]
    examples: int
    seconds: float


@dataclass(frozen=True)
class Rivals:
    """What costs nothing, ready to be judged: zero-shot scores and the probe's hidden states share their passes."""

    bare: Passes
    hard: Passes
    sentences: SentenceFeatures

    @classmethod
    def of(cls, model: PromptedModel, task: Task, config: TrainConfig) -> Rivals:
        """Make the rivals of one task."""
        bare = Passes(model, model.bare(task.template, task.readout))
        hard = Passes(model, _hard_text(model, task, config), title="hard text")
        return cls(bare, hard, SentenceFeatures(task.template.fields))

    def judged(self, rows: Rows, config: TrainConfig) -> tuple[Reference, ...]:
        """Run them on some rows; the probe learns from at most `probe_rows` of train."""
        features = (
            (f"hidden states of {self.bare.model.backbone.name}", self.bare.features),
            ("sentence embeddings", self.sentences),
        )
        return run_references(
            replace(rows, train=_first(rows.train, config.probe_rows)),
            zero_shot=self.bare.score,
            hard_text=self.hard.score,
            features=features,
            seed=config.seed,
        )


def report_on(
    model: PromptedModel, task: Task, parts: Parts, fitted: Fitted, config: TrainConfig, pooled: Pooled | None
) -> ReportCard:
    """Score the rows that took part in no choice, with the prompt and with what costs nothing."""
    test, overlap = _test_rows(task, config)
    if pooled is None:
        evaluation = evaluate(model, fitted.prompt, test, overlap=overlap)
        rows = Rows(task.labels, parts.train, parts.validation, test, overlap)
        references = Rivals.of(model, task, config).judged(rows, config)
    else:
        evaluation, references = pooled.evaluation, pooled.references
    trained = Trained(
        task=task.name,
        backbone=model.backbone.name,
        digest=fitted.prompt.digest,
        length=fitted.prompt.length,
        steps=fitted.fit.steps,
        sizes=_sizes(task, pooled),
        test_given="test" in task.given,
        cross_fitted=pooled is not None,
        notes=(*task.notes, *_remarks(task, fitted, test, pooled, config)),
        cost={
            "training seconds": fitted.fit.seconds + (pooled.seconds if pooled else 0),
            "examples": float(fitted.fit.examples + (pooled.examples if pooled else 0)),
        },
    )
    return report_card(
        evaluation,
        references,
        trained,
        validation=fitted.validation,
        temperature=fitted.temperature,
        seed=config.seed,
    )


def cross_fitted(
    model: PromptedModel,
    task: Task,
    config: TrainConfig,
    run: Path,
    settings: Mapping[str, Any],
    *,
    resume: bool,
    start: SoftPrompt | None,
) -> Pooled:
    """Train one prompt a fold, each on the other folds, and score every row with the one that never saw it."""
    rows = [row for split in task.splits.values() for row in split]
    parts = folds(rows, FOLDS, source_of_chance(config.seed, "cross-fit"))
    say(f"{len(rows)} rows and no test split: {FOLDS} prompts are trained for the figures, then one on all rows")
    rivals = Rivals.of(model, task, config)
    evaluations, references, fits = [], [], []
    for number, held_out in enumerate(parts, start=1):
        out = set(held_out)
        test = [rows[i] for i in held_out]
        inner = Parts.carved([row for i, row in enumerate(rows) if i not in out], config.seed)
        folder = RunFolder(run / f"fold-{number}")
        fold = fit(model, task, inner, config, folder, {**settings, "fold": number}, resume=resume, start=start)
        fits.append(fold.fit)
        evaluations.append(evaluate(model, fold.prompt, test))
        references.append(rivals.judged(Rows(task.labels, inner.train, inner.validation, test), config))
    examples, seconds = sum(each.examples for each in fits), sum(each.seconds for each in fits)
    return Pooled(Evaluation.pooled(evaluations), pool_references(references), examples, seconds)


def _sizes(task: Task, pooled: Pooled | None) -> dict[str, int]:
    """Rows by split; of a cross-fitted task, whose splits were not used, all of them."""
    sizes = {split: len(rows) for split, rows in task.splits.items()}
    return sizes if pooled is None else {"all": sum(sizes.values())}


def _hard_text(model: PromptedModel, task: Task, config: TrainConfig) -> BoundPrompt:
    """The initial text, once and whole, where the virtual tokens stand."""
    text = initial_text(config, task.template, task.readout)
    length = len(model.backbone.tokenizer.encode(text, add_special_tokens=False))
    rows = from_text(model.backbone, length, text).rows
    return BoundPrompt.make(model.backbone, {"input": rows}, task.template, task.readout)


def _test_rows(task: Task, config: TrainConfig) -> tuple[list[Example], tuple[int, ...]]:
    """The test rows, or a seeded sample where there are more than the report is to score; and which stand in train."""
    rows = task.splits["test"]
    chosen = list(range(len(rows)))
    if len(rows) > config.test_rows:
        chosen = sorted(random.Random(config.seed).sample(chosen, config.test_rows))
    known = set(task.overlap("test"))
    return [rows[i] for i in chosen], tuple(place for place, i in enumerate(chosen) if i in known)


def _first(rows: Sequence[Example], most: int) -> Sequence[Example]:
    """At most `most` rows, drawn with a fixed seed so that every rival of a run sees the same."""
    return rows if len(rows) <= most else random.Random(0).sample(list(rows), most)


def _remarks(
    task: Task, fitted: Fitted, test: Sequence[Example], pooled: Pooled | None, config: TrainConfig
) -> Iterator[str]:
    if pooled is None:
        yield from task.division
    whole = len(task.splits["test"])
    if pooled is None and len(test) < whole:
        yield f"the figures are on {len(test):,} of the {whole:,} test rows, drawn with the run's seed"
    learned = len(task.splits["train"])
    if pooled is None and learned > config.probe_rows:
        yield f"the linear probe learned from {config.probe_rows:,} of the {learned:,} training rows"
    if fitted.fit.cut_rows:
        yield f"{fitted.fit.cut_rows:,} times a training row was shortened to fit"
    if fitted.fit.stopped != DONE:
        yield f"training ended at step {fitted.fit.steps}: {fitted.fit.stopped}"

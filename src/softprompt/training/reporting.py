"""The report card of a training run: which rows it uses, and which rivals it meets there."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.evaluation.answer_evaluation import Judged
from softprompt.evaluation.answer_evaluation import pooled as joined
from softprompt.evaluation.figures import RaceRow, Trained, Variant
from softprompt.evaluation.references import Reference, Rows, pool_references
from softprompt.evaluation.report import ReportCard, report_card
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.progress import say
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.free_text import Text
from softprompt.tasks.splits import folds, source_of_chance
from softprompt.tasks.tags import TokenTags
from softprompt.tasks.task import Example, Task
from softprompt.training.budget import Spent
from softprompt.training.config import TrainConfig
from softprompt.training.fitting import Fitted, fit
from softprompt.training.learner import DONE
from softprompt.training.planning import Parts
from softprompt.training.provenance import pooled_rows
from softprompt.training.rivals import rivals_of
from softprompt.training.runs import RunFolder
from softprompt.training.variants import alone, ensemble, judged, unmeasured

FOLDS = 5
TEXTS = 300
"""Test rows at most where answers are text: each is written three times, by the prompt and by two references."""


@dataclass(frozen=True)
class Pooled:
    """Figures over all rows, each scored by a prompt that was trained without it."""

    evaluation: Judged
    references: tuple[Reference, ...]
    variants: tuple[Variant, ...]
    spent: Spent


def report_on(
    model: PromptedModel,
    task: Task,
    parts: Parts,
    fitted: Fitted,
    config: TrainConfig,
    spent: Spent,
    pooled: Pooled | None = None,
    members: Sequence[SoftPrompt] = (),
) -> ReportCard:
    """Score the rows that took part in no choice, with the prompt and with what costs nothing.

    Args:
        model: the frozen backbone.
        task: what was learned.
        parts: the rows that it was learned from and chosen by.
        fitted: the prompt and how it was trained.
        config: the settings as asked for.
        spent: what all trainings took together: candidates, folds and members of an ensemble.
        pooled: figures over all rows, where they are cross-fitted.
        members: with an ensemble, all its prompts.
    """
    test, overlap = _test_rows(task, config)
    if pooled is None:
        evaluation, bare = judged(model, fitted.prompt, test, overlap)
        rows = Rows(task.labels, parts.train, parts.validation, test, overlap)
        references = rivals_of(model, task, config).judged(rows, config)
        variants = alone([bare], config.seed)
    else:
        evaluation, references, variants = pooled.evaluation, pooled.references, pooled.variants
    if len(members) > 1:
        joint = unmeasured(len(members)) if pooled else ensemble(model, task, members, test, config.seed)
        variants = (*variants, joint)
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
        size=len(fitted.prompt.to_bytes()),
        learned_rows=fitted.prompt.has_rows,
        race=tuple(_race_row(entry) for entry in fitted.race),
        cost={"training seconds": spent.seconds, "examples": float(spent.examples)},
    )
    return report_card(
        evaluation,
        references,
        trained,
        validation=fitted.validation,
        temperature=fitted.temperature,
        variants=variants,
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
    rows = pooled_rows(task)
    parts = folds(rows, FOLDS, source_of_chance(config.seed, "cross-fit"), by_label=task.by_label)
    say(f"{len(rows)} rows and no test split: {FOLDS} prompts are trained for the figures, then one on all rows")
    rivals = rivals_of(model, task, config)
    evaluations, references, bare, spent = [], [], [], []
    for number, held_out in enumerate(parts, start=1):
        out = set(held_out)
        test = [rows[i] for i in held_out]
        inner = Parts.carved(task, [row for i, row in enumerate(rows) if i not in out], config.seed)
        known = {row.key for row in inner.validation}
        overlap = tuple(place for place, row in enumerate(test) if row.key in known)
        folder = RunFolder(run / f"fold-{number}")
        fold = fit(model, task, inner, config, folder, {**settings, "fold": number}, resume=resume, start=start)
        spent.append(fold.spent)
        with_rows, without = judged(model, fold.prompt, test, overlap)
        evaluations.append(with_rows)
        bare.append(without)
        references.append(rivals.judged(Rows(task.labels, inner.train, inner.validation, test, overlap), config))
    variants = alone(bare, config.seed)
    return Pooled(joined(evaluations), pool_references(references), variants, Spent.together(spent))


def _race_row(entry: Mapping[str, Any]) -> RaceRow:
    known = {key: entry[key] for key in ("candidate", "step", "loss", "accuracy", "goes_on") if key in entry}
    return RaceRow(**known)


def _sizes(task: Task, pooled: Pooled | None) -> dict[str, int]:
    """Rows by split; of a cross-fitted task those that were given, without the splits that were not used."""
    if pooled is None:
        return {split: len(rows) for split, rows in task.splits.items()}
    if "validation" in task.given:
        return {"train": len(pooled_rows(task)), "validation": len(task.splits["validation"])}
    return {"all": len(pooled_rows(task))}


def _test_rows(task: Task, config: TrainConfig) -> tuple[list[Example], tuple[int, ...]]:
    """The test rows, or a seeded sample where there are more than the report is to score; and which stand in train."""
    rows = task.splits["test"]
    chosen = list(range(len(rows)))
    most = min(config.test_rows, TEXTS) if isinstance(task.readout, Text) else config.test_rows
    if len(rows) > most:
        chosen = sorted(random.Random(config.seed).sample(chosen, most))
    known = set(task.overlap("test"))
    return [rows[i] for i in chosen], tuple(place for place, i in enumerate(chosen) if i in known)


def _remarks(
    task: Task, fitted: Fitted, test: Sequence[Example], pooled: Pooled | None, config: TrainConfig
) -> Iterator[str]:
    if pooled is None:
        yield from task.division
    elif "validation" in task.given:
        given = len(task.splits["validation"])
        yield f"the {given:,} validation rows are as given: prompts were chosen by them, and none learned from them"
    whole = len(task.splits["test"])
    if pooled is None and len(test) < whole:
        yield f"the figures are on {len(test):,} of the {whole:,} test rows, drawn with the run's seed"
    learned = len(task.splits["train"])
    probed = not isinstance(task.readout, Text | TokenTags)
    if pooled is None and learned > config.probe_rows and probed:
        yield f"the linear probe learned from {config.probe_rows:,} of the {learned:,} training rows"
    if fitted.validation is None and "loss" in fitted.fit.validation:
        loss = fitted.fit.validation["loss"]
        yield f"validation, used for selection: loss {loss:.3f} nats a token"
    if fitted.fit.cut_rows:
        yield f"{fitted.fit.cut_rows:,} times a training row was shortened to fit"
    if fitted.fit.stopped != DONE:
        yield f"training ended at step {fitted.fit.steps}: {fitted.fit.stopped}"

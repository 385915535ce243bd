"""One fit: a prompt trained on some rows of a task, alone or as the winner of a race, and calibrated on others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from softprompt.errors import DataError
from softprompt.evaluation.answer_evaluation import AnswerEvaluation, Judged
from softprompt.evaluation.calibration import Temperature, choose_abstention, fit_answer_temperature, fit_temperature
from softprompt.evaluation.evaluate import evaluate
from softprompt.evaluation.evaluation import Evaluation
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.progress import say
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.splits import carve, source_of_chance
from softprompt.tasks.task import Example, Task
from softprompt.training import candidates
from softprompt.training.budget import steps_within
from softprompt.training.config import TrainConfig
from softprompt.training.folds import chosen_by_folds
from softprompt.training.learner import Fit
from softprompt.training.lesson import Lesson
from softprompt.training.provenance import FEW as FEW_ROWS
from softprompt.training.provenance import recipe
from softprompt.training.race import Race, halving
from softprompt.training.runs import RunFolder
from softprompt.training.selection import FEW
from softprompt.training.trainer import Trainer


@dataclass(frozen=True)
class Fitted:
    """A calibrated prompt, what was seen on the validation rows, and how it won.

    Attributes:
        prompt: the soft prompt.
        fit: how its training went.
        validation: its answers to the validation rows; `None` without any, and where answers are text, which takes
            long to write: there the loss in `fit` says how it was chosen.
        temperature: what calibrates it.
        config: the settings it was trained with, everything decided.
        race: one entry a candidate and rung; empty where nothing raced.
    """

    prompt: SoftPrompt
    fit: Fit
    validation: Judged | None
    temperature: Temperature
    config: TrainConfig
    race: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Parts:
    """The rows of one fit: to learn from, and to choose by."""

    train: Sequence[Example]
    validation: Sequence[Example]

    @classmethod
    def of_all(cls, task: Task, seed: int) -> Parts:
        """Every row of the task, a seeded part of them to choose by."""
        return cls.carved([row for rows in task.splits.values() for row in rows], seed, by_label=task.by_label)

    @classmethod
    def carved(cls, rows: Sequence[Example], seed: int, *, by_label: bool = True) -> Parts:
        """Some rows, a seeded 15 % of them to choose by, stratified `by_label` where rows have one of few labels."""
        kept, aside = carve(rows, 0.15, 1000, source_of_chance(seed, "validation"), by_label=by_label)
        return cls(kept, aside)


def fit(
    model: PromptedModel,
    task: Task,
    parts: Parts,
    config: TrainConfig,
    folder: RunFolder,
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
    start: SoftPrompt | None = None,
) -> Fitted:
    """Train one prompt on some rows of a task and calibrate it on its validation rows.

    Where the settings leave something open and the validation rows are enough to tell, candidates race for the
    first steps, and the winner trains on. Where they are too few, candidates race on folds of all rows first; where
    those are too few as well, the default stands.
    """
    if not parts.train:
        raise DataError(f"the task `{task.name}` has no rows to train on")
    unfinished = folder.checkpoint.exists()
    going_on = folder.begin(settings, resume=resume)
    if unfinished and not going_on:
        say(f"starting anew in {folder.path}; --resume would have gone on from its last checkpoint")
    lessons, race = _plan(model, task, parts, config, folder, start, resume=resume, going_on=going_on)
    fits = Trainer(model, lessons, folder, race).fit(resume=going_on)
    place = max(range(len(fits)), key=lambda i: (fits[i].steps, -i))
    done, lesson = fits[place], lessons[place]
    if race.table:
        say(f"the race was won by `{lesson.name}`")
        folder.log({"event": "race", "step": done.steps, "winner": lesson.name})
    return replace(finished(model, task, parts, lesson, done, {**settings, "race": list(race.table)}), race=race.table)


def finished(
    model: PromptedModel, task: Task, parts: Parts, lesson: Lesson, done: Fit, settings: Mapping[str, Any]
) -> Fitted:
    """Keep what a prompt ended with: its provenance, and its calibration on the validation rows."""
    say(f"starting from {done.init}")
    if task.template.placement not in ("prefix", "none"):
        say(f"the soft tokens stand as {task.template.placement}: they run in every row, slower than in front of it")
    provenance = {
        **{key: value for key, value in settings.items() if key != "threads"},
        "recipe": recipe(lesson.config),
        "seed": lesson.config.seed,
        "init": done.init,
        "step": done.step,
        "steps": done.steps,
        "stopped": done.stopped,
        "validation": {"rows": len(parts.validation), "used for": "selection", **done.validation},
    }
    prompt = SoftPrompt(
        done.tensors, task.template, task.readout, model.backbone.fingerprint, provenance=_plain(provenance)
    )
    return _calibrated(model, prompt, done, parts.validation, lesson.config)


def _plan(
    model: PromptedModel,
    task: Task,
    parts: Parts,
    config: TrainConfig,
    folder: RunFolder,
    start: SoftPrompt | None,
    *,
    resume: bool,
    going_on: bool,
) -> tuple[list[Lesson], Race]:
    """Lay out the lessons of a fit, the default first, and who goes on when."""
    default = candidates.settled(config, task.template, task.readout, model.backbone, parts.train)

    def lesson(name: str, chosen: TrainConfig) -> Lesson:
        return Lesson(name, chosen, task.template, task.readout, parts.train, parts.validation, start)

    needed = candidates.needs_rows(model.backbone, task.template, task.readout)
    field = candidates.field(config, default, rows_needed=needed) if config.race else {"default": default}
    if len(parts.validation) < FEW and len(field) > 1:
        name, race = _by_folds(model, task, parts, field, folder, start, resume=resume)
        return [lesson(name, field[name])], race
    if config.budget is not None:
        trial = lesson("default", default)
        steps = steps_within(config.budget, model, trial, len(field), folder.plan, resume=going_on)
        field = {name: each.model_copy(update={"steps": steps}) for name, each in field.items()}
    lessons = [lesson(name, each) for name, each in field.items()]
    return lessons, Race(halving(len(lessons), lessons[0].config.length, config.validation_rows))


def _by_folds(
    model: PromptedModel,
    task: Task,
    parts: Parts,
    field: Mapping[str, TrainConfig],
    folder: RunFolder,
    start: SoftPrompt | None,
    *,
    resume: bool,
) -> tuple[str, Race]:
    """Choose a candidate by folds of all rows; the default where they are too few for that, or a budget is set."""
    default = next(iter(field))
    rows = [*parts.train, *parts.validation]
    if len(rows) < FEW_ROWS or field[default].budget is not None:
        return default, Race()
    inner = RunFolder(folder.path / "folds")
    return chosen_by_folds(model, rows, task.template, task.readout, field, inner, resume=resume, start=start)


def trained_members(
    model: PromptedModel,
    task: Task,
    parts: Parts,
    winner: Fitted,
    count: int,
    folder: RunFolder,
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
    start: SoftPrompt | None = None,
) -> list[Fitted]:
    """Train more members of an ensemble: the winner's settings with other seeds, side by side in one bank.

    Lester et al. 2021, arXiv 2104.08691, section 5: the backbone is shared, so a member costs its own rows only.

    Args:
        model: the frozen backbone.
        task: what to learn.
        parts: the rows that the winner learned from and was chosen by.
        winner: the first member.
        count: members to train beside it, at least 1.
        folder: of the bank's measurements and checkpoints.
        settings: of the run.
        resume: go on from the folder's last checkpoint.
        start: with `init=prompt`, the prompt to start from.
    """
    configs = [winner.config.model_copy(update={"seed": winner.config.seed + number}) for number in range(1, count + 1)]
    lessons = [
        Lesson(f"seed {config.seed}", config, task.template, task.readout, parts.train, parts.validation, start)
        for config in configs
    ]
    say(f"{count} more prompts for the ensemble, side by side")
    going_on = folder.begin({**settings, "ensemble": recipe(winner.config), "members": count}, resume=resume)
    fits = Trainer(model, lessons, folder).fit(resume=going_on)
    return [finished(model, task, parts, lesson, done, settings) for lesson, done in zip(lessons, fits, strict=True)]


def _calibrated(
    model: PromptedModel, prompt: SoftPrompt, done: Fit, validation: Sequence[Example], config: TrainConfig
) -> Fitted:
    """Fit the temperature, and the abstain threshold if one is asked for, on the validation rows."""
    if not validation:
        return Fitted(prompt, done, None, Temperature(reason="there are no validation rows"), config)
    one_label = isinstance(prompt.readout, LabelWords)
    if config.abstain_accuracy is not None and not one_label:
        say("no abstain threshold: an answer is held back where it is one label, and here it is not")
    if isinstance(prompt.readout, Text):
        return Fitted(
            prompt, done, None, Temperature(reason="text has no probability of a choice to calibrate"), config
        )
    seen = evaluate(model, prompt, validation)
    if isinstance(seen, AnswerEvaluation):
        temperature = fit_answer_temperature(seen, prompt.readout)
        kept = replace(prompt, temperature=round(temperature.value, 6))
        return Fitted(kept, done, replace(seen, digest=kept.digest), temperature, config)
    temperature = fit_temperature(seen.log_probabilities, np.asarray(seen.gold))
    value = round(temperature.value, 6)
    abstain = _threshold(seen, value, config.abstain_accuracy)
    kept = replace(prompt, temperature=value, abstain=abstain)
    after = replace(seen, temperature=value, abstain=abstain, digest=kept.digest)
    return Fitted(kept, done, after, temperature, config)


def _threshold(seen: Evaluation, temperature: float, accuracy: float | None) -> float | None:
    """The abstain threshold that reaches an accuracy on the answered rows, where one is asked for and there is one."""
    if accuracy is None:
        return None
    calibrated = replace(seen, temperature=temperature).calibrated
    chosen = choose_abstention(np.asarray(calibrated), np.asarray(seen.gold), accuracy)
    if chosen.threshold is None:
        say(f"no abstain threshold: {chosen.reason}")
    return chosen.threshold


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))

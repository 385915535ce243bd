"""One fit: a prompt trained on some rows of a task, alone or as the winner of a race, and calibrated on others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from softprompt.errors import DataError
from softprompt.evaluation.calibration import Temperature, choose_abstention, fit_temperature
from softprompt.evaluation.evaluate import Evaluation, evaluate
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.progress import say
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.splits import carve, source_of_chance
from softprompt.tasks.task import Example, Task
from softprompt.training import candidates
from softprompt.training.budget import steps_within
from softprompt.training.config import TrainConfig
from softprompt.training.learner import Fit
from softprompt.training.lesson import Lesson
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
        validation: its scores on the validation rows; `None` without any.
        temperature: what calibrates it.
        config: the settings it was trained with, everything decided.
        race: one entry a candidate and rung; empty where nothing raced.
    """

    prompt: SoftPrompt
    fit: Fit
    validation: Evaluation | None
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
        return cls.carved([row for rows in task.splits.values() for row in rows], seed)

    @classmethod
    def carved(cls, rows: Sequence[Example], seed: int) -> Parts:
        """Some rows, a seeded and stratified 15 % of them to choose by."""
        kept, aside = carve(rows, 0.15, 1000, source_of_chance(seed, "validation"))
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
    first steps, and the winner trains on.
    """
    if not parts.train:
        raise DataError(f"the task `{task.name}` has no rows to train on")
    unfinished = folder.checkpoint.exists()
    going_on = folder.begin(settings, resume=resume)
    if unfinished and not going_on:
        say(f"starting anew in {folder.path}; --resume would have gone on from its last checkpoint")
    lessons, race = _plan(model, task, parts, config, folder, start, going_on=going_on)
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
    going_on: bool,
) -> tuple[list[Lesson], Race]:
    """Lay out the lessons of a fit, the default first, and who goes on when."""
    default = candidates.settled(config, task.template, task.readout, model.backbone, len(parts.train))

    def lesson(name: str, chosen: TrainConfig) -> Lesson:
        return Lesson(name, chosen, task.template, task.readout, parts.train, parts.validation, start)

    racing = config.race and len(parts.validation) >= FEW
    field = candidates.field(config, default) if racing else {"default": default}
    if config.budget is not None:
        trial = lesson("default", default)
        steps = steps_within(config.budget, model, trial, len(field), folder.path / "plan.json", resume=going_on)
        field = {name: each.model_copy(update={"steps": steps}) for name, each in field.items()}
    lessons = [lesson(name, each) for name, each in field.items()]
    return lessons, Race(halving(len(lessons), lessons[0].config.length, config.validation_rows))


def _calibrated(
    model: PromptedModel, prompt: SoftPrompt, done: Fit, validation: Sequence[Example], config: TrainConfig
) -> Fitted:
    """Fit the temperature, and the abstain threshold if one is asked for, on the validation rows."""
    if not validation:
        return Fitted(prompt, done, None, Temperature(reason="there are no validation rows"), config)
    seen = evaluate(model, prompt, validation)
    temperature = fit_temperature(seen.log_probabilities, np.asarray(seen.gold))
    value = round(temperature.value, 6)
    abstain = None
    if config.abstain_accuracy is not None:
        calibrated = replace(seen, temperature=value).calibrated
        chosen = choose_abstention(np.asarray(calibrated), np.asarray(seen.gold), config.abstain_accuracy)
        abstain = chosen.threshold
        if abstain is None:
            say(f"no abstain threshold: {chosen.reason}")
    kept = replace(prompt, temperature=value, abstain=abstain)
    after = replace(seen, temperature=value, abstain=abstain, digest=kept.digest)
    return Fitted(kept, done, after, temperature, config)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))

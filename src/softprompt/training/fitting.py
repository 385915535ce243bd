"""One fit: a prompt trained on some rows of a task, alone or as the winner of a race, and calibrated on others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from softprompt.tasks.task import Example, Task
from softprompt.training.batches import sample
from softprompt.training.budget import Spent
from softprompt.training.config import TrainConfig
from softprompt.training.learner import Fit
from softprompt.training.lesson import Lesson
from softprompt.training.planning import Entry, Parts, planned
from softprompt.training.provenance import recipe
from softprompt.training.runs import RunFolder
from softprompt.training.trainer import Trainer

CALIBRATED_ON = 1_000
"""Validation rows that temperature and threshold are fitted on at most, drawn by the seed."""


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
        spent: what it took, with the candidates that it beat; of prompts that learned side by side, each one's part.
    """

    prompt: SoftPrompt
    fit: Fit
    validation: Judged | None
    temperature: Temperature
    config: TrainConfig
    race: Sequence[Mapping[str, Any]] = ()
    spent: Spent = field(default_factory=Spent)


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
    entry = Entry(model, task, parts, start)
    tried = entry.field(config, tell="fold" not in settings)
    unfinished = folder.checkpoint.exists()
    going_on = folder.begin(settings, resume=resume)
    if unfinished and not going_on:
        say(f"starting anew in {folder.path}; --resume would have gone on from its last checkpoint")
    plan = planned(entry, config, tried, folder, settings, resume=resume)
    race = plan.race
    fits = Trainer(model, plan.lessons, folder, race).fit(resume=going_on)
    place = max(range(len(fits)), key=lambda i: (fits[i].steps, -i))
    done, lesson = fits[place], plan.lessons[place]
    if race.table:
        say(f"the race was won by `{lesson.name}`")
        folder.log({"event": "race", "step": done.steps, "winner": lesson.name})
    kept = finished(model, task, parts, lesson, done, {**settings, "race": list(race.table)})
    return replace(kept, race=race.table, spent=plan.spent + Spent.on(fits))


def finished(
    model: PromptedModel, task: Task, parts: Parts, lesson: Lesson, done: Fit, settings: Mapping[str, Any]
) -> Fitted:
    """Keep what a prompt ended with: its provenance, and its calibration on the validation rows."""
    say(f"starting from {done.init}")
    if task.template.placement not in ("prefix", "none"):
        say(f"the soft tokens stand as {task.template.placement}: they run in every row, slower than in front of it")
    provenance = {
        **{key: value for key, value in settings.items() if key != "threads"},
        "task": {**settings["task"], "label": task.column},  # not among the settings: other runs could not be resumed
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

    Lester et al. 2021, arXiv 2104.08691, section 5: the backbone is shared, so a member costs its own rows only. One
    whose loss was no number before it was first looked at is left out.

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
    return [
        replace(finished(model, task, parts, lesson, done, settings), spent=spent)
        for lesson, done, spent in zip(lessons, fits, Spent.each(fits), strict=True)
        if done.step >= 0  # else it was never looked at: its loss was no number before
    ]


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
    seen = evaluate(model, prompt, sample(validation, CALIBRATED_ON, config.seed))
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

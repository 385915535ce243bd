"""One fit: a prompt trained on some rows of a task and calibrated on others."""

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
from softprompt.prompts.parameterizations.direct import DirectPrompt
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.splits import carve, source_of_chance
from softprompt.tasks.task import Example, Task
from softprompt.training.config import TrainConfig
from softprompt.training.runs import RunFolder
from softprompt.training.start import first_values
from softprompt.training.trainer import Fit, Trainer

ALL_ROWS = "all rows"
"""What a prompt was fitted on when its figures are cross-fitted; `eval` warns of such rows."""


@dataclass(frozen=True)
class Fitted:
    """A calibrated prompt and what was seen on the validation rows."""

    prompt: SoftPrompt
    fit: Fit
    validation: Evaluation | None
    temperature: Temperature


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
    """Train one prompt on some rows of a task and calibrate it on its validation rows."""
    if not parts.train:
        raise DataError(f"the task `{task.name}` has no rows to train on")
    initial = first_values(model.backbone, config, task.template, task.readout, start)
    trainer = Trainer(
        model, DirectPrompt(initial.rows), task.template, task.readout, parts.train, parts.validation, config, folder
    )
    unfinished = folder.checkpoint.exists()
    going_on = folder.begin(settings, resume=resume)
    if unfinished and not going_on:
        say(f"starting anew in {folder.path}; --resume would have gone on from its last checkpoint")
    done = trainer.fit(resume=going_on)
    say(f"starting from {initial.note}")
    if task.template.placement not in ("prefix", "none"):
        say(f"the soft tokens stand as {task.template.placement}: they run in every row, slower than in front of it")
    provenance = {
        **{key: value for key, value in settings.items() if key != "threads"},
        "init": initial.note,
        "step": done.step,
        "steps": done.steps,
        "stopped": done.stopped,
        "validation": {"rows": len(parts.validation), "used for": "selection", **done.validation},
    }
    prompt = SoftPrompt(
        done.tensors, task.template, task.readout, model.backbone.fingerprint, provenance=_plain(provenance)
    )
    return _calibrated(model, prompt, done, parts.validation, config)


def _calibrated(
    model: PromptedModel, prompt: SoftPrompt, done: Fit, validation: Sequence[Example], config: TrainConfig
) -> Fitted:
    """Fit the temperature, and the abstain threshold if one is asked for, on the validation rows."""
    if not validation:
        return Fitted(prompt, done, None, Temperature(reason="there are no validation rows"))
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
    return Fitted(kept, done, replace(seen, temperature=value, abstain=abstain, digest=kept.digest), temperature)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))

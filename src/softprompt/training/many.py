"""`train_many`: a bank of prompts in one pass over the frozen backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from softprompt.backbones.backbone import Backbone
from softprompt.errors import ConfigError
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.fitted import fitted_to
from softprompt.tasks.task import Task
from softprompt.training import candidates
from softprompt.training.budget import Spent
from softprompt.training.config import TrainConfig
from softprompt.training.fitting import Fitted, finished
from softprompt.training.lesson import Lesson
from softprompt.training.planning import Parts, refuse_misfits
from softprompt.training.provenance import settings_of
from softprompt.training.runs import RunFolder, runs_folder
from softprompt.training.trainer import Trainer


def train_many(
    backbone: Backbone,
    tasks: Task | Sequence[Task],
    configs: Sequence[TrainConfig],
    *,
    run: str | Path | None = None,
    resume: bool = False,
    start: SoftPrompt | None = None,
) -> list[Fitted]:
    """Train N prompts side by side: other seeds, first values, lengths, rates, parameterizations or tasks.

    One run of all prefixes and shared passes over everyone's rows a step; each prompt has its own rows, optimizer
    and rate, and learns what it would alone: gradients agree to rounding. How rows are cut into passes is fixed by
    `tokens_at_once`, so the result does not depend on the memory of the day. Nothing races: all train to their end.

    Args:
        backbone: the frozen transformer.
        tasks: what to learn: one for all prompts, or one for each.
        configs: the settings of each prompt, N of them; what they leave open takes its default.
        run: folder for measurements and checkpoints; by default one named after the tasks and settings.
        resume: go on from the run's last checkpoint.
        start: with `init="prompt"`, the prompt to start from.

    Returns:
        The calibrated prompts and how their training went, in the order of `configs`.

    Raises:
        ConfigError: no settings, as many tasks as do not fit them, a budget or an ensemble, which are `train`'s, or
            settings of the whole bank that differ from prompt to prompt.
        TrainingError: the run to resume had other settings, or no step gave a finite loss.
        KeyboardInterrupt: stopped between two steps; `resume=True` goes on.
    """
    each = [tasks] * len(configs) if isinstance(tasks, Task) else list(tasks)
    if not configs or len(each) != len(configs):
        raise ConfigError(
            f"{len(each)} tasks and {len(configs)} settings were given; give one task for all prompts or one for each"
        )
    _refuse_unused(configs)
    _refuse_unlike(configs)
    each = [fitted_to(task, backbone.kind, masked="mask-readout" in backbone.capabilities) for task in each]
    model = PromptedModel(backbone)
    parts = [Parts(task.splits["train"], task.splits["validation"]) for task in each]
    settled = [
        candidates.settled(config, task.template, task.readout, backbone, rows.train)
        for config, task, rows in zip(configs, each, parts, strict=True)
    ]
    lessons = [
        Lesson(f"{number}: {task.name}", config, task.template, task.readout, rows.train, rows.validation, start)
        for number, (config, task, rows) in enumerate(zip(settled, each, parts, strict=True))
    ]
    refuse_misfits(backbone, lessons)
    settings = [settings_of(backbone, task, config, start) for task, config in zip(each, settled, strict=True)]
    whole: dict[str, Any] = {"bank": settings, "threads": settings[0]["threads"]}
    folder = RunFolder(Path(run) if run else runs_folder("bank", whole))
    going_on = folder.begin(whole, resume=resume)
    fits = Trainer(model, lessons, folder).fit(resume=going_on)
    return [
        replace(finished(model, task, rows, lesson, done, own), spent=spent)
        for task, rows, lesson, done, own, spent in zip(
            each, parts, lessons, fits, settings, Spent.each(fits), strict=True
        )
    ]


_OF_THE_BANK = ("tokens_at_once", "checkpoint_layers", "compile_layers", "checkpoint_every")
"""Settings of how a bank is run, which its prompts have in common."""


def _refuse_unlike(configs: Sequence[TrainConfig]) -> None:
    """Refuse settings that differ and cannot: of two, one would be ignored."""
    for name in _OF_THE_BANK:
        asked = [getattr(config, name) for config in configs]
        other = next((number for number, value in enumerate(asked) if value != asked[0]), None)
        if other is not None:
            raise ConfigError(
                f"{name} is {asked[0]!r} for prompt 0 and {asked[other]!r} for prompt {other}; a bank is run in one "
                "way: give all prompts the same"
            )


def _refuse_unused(configs: Sequence[TrainConfig]) -> None:
    """Refuse what only `train` does."""
    for number, config in enumerate(configs):
        asked = f"a budget, `{config.budget}`," if config.budget else f"an ensemble of {config.ensemble},"
        if config.budget or config.ensemble > 1:
            raise ConfigError(
                f"the settings of prompt {number} ask for {asked} which `train` has and a bank has not; give steps "
                "instead of the one, and a prompt for each seed instead of the other"
            )

"""`train`: from a frozen backbone and a task to a soft prompt and an honest report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.backbones.backbone import Backbone
from softprompt.errors import ConfigError
from softprompt.evaluation.report import ReportCard
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.fitted import fitted_to
from softprompt.tasks.task import Task
from softprompt.training.budget import Spent, shared
from softprompt.training.config import TrainConfig
from softprompt.training.fitting import Fitted, fit, trained_members
from softprompt.training.learner import Fit
from softprompt.training.planning import Parts
from softprompt.training.provenance import few_rows, fitted_on, settings_of
from softprompt.training.reporting import FOLDS, cross_fitted, report_on
from softprompt.training.runs import RunFolder, runs_folder


@dataclass(frozen=True)
class TrainResult:
    """What training gives.

    Attributes:
        prompt: the soft prompt, calibrated.
        report: how good it is, on rows that took part in no choice; `None` where none was asked for.
        run: the run's folder.
        fit: how the run went.
        members: with an ensemble, all its prompts, `prompt` first; else none.
    """

    prompt: SoftPrompt
    report: ReportCard | None
    run: Path
    fit: Fit
    members: tuple[SoftPrompt, ...] = ()


def train(
    backbone: Backbone,
    task: Task,
    config: TrainConfig | None = None,
    *,
    run: str | Path | None = None,
    resume: bool = False,
    start: SoftPrompt | None = None,
    **options: Any,
) -> TrainResult:
    """Teach a frozen backbone a task: learn a soft prompt, calibrate it, and report how good it is.

    AdamW on the prompt alone (Lester et al. 2021, arXiv 2104.08691); the rate is relative to the RMS of the
    backbone's embeddings, and the prompt with the lowest validation loss is kept. Settings not given have
    defaults. The same settings, rows, machine, thread count and dtype give the same prompt, byte for byte.

    Args:
        backbone: the frozen transformer.
        task: what to learn.
        config: the settings; or give them as `options`, by the names of `TrainConfig`.
        run: folder for measurements and checkpoints; by default one named after the task and the settings.
        resume: go on from the run's last checkpoint, if there is one.
        start: with `init="prompt"`, the prompt to start from.
        options: settings, on top of `config`.

    Raises:
        UnknownNameError: an option that does not exist.
        ConfigError: an option out of range, or an ensemble whose answers could not become one.
        TemplateError: the prompt does not fit the backbone's positions, or the template has no `{soft}`.
        TrainingError: the run to resume had other settings, or no step gave a finite loss.
        KeyboardInterrupt: stopped between two steps; `resume=True` goes on.
    """
    asked = TrainConfig.read(**{**(config.model_dump() if config else {}), **options})
    task = fitted_to(task, backbone.kind, masked="mask-readout" in backbone.capabilities)
    _refuse_ensemble(task, asked.ensemble)
    few = few_rows(task)
    config = _of_one(asked, cross_fitted=few)
    settings = settings_of(backbone, task, config, start, fitted_on(task))
    folder = RunFolder(Path(run) if run else runs_folder(task.name, settings))
    model = PromptedModel(backbone)
    everything = Parts.of_all(task, config.seed) if few else Parts(task.splits["train"], task.splits["validation"])
    pooled = None
    if few and config.report:
        pooled = cross_fitted(model, task, config, folder.path, settings, resume=resume, start=start)
    fitted = fit(model, task, everything, config, folder, settings, resume=resume, start=start)
    more: list[Fitted] = []
    if asked.ensemble > 1:
        bank, count = RunFolder(folder.path / "ensemble"), asked.ensemble - 1
        more = trained_members(model, task, everything, fitted, count, bank, settings, resume=resume, start=start)
    members = (fitted.prompt, *(each.prompt for each in more)) if more else ()
    spent = Spent.together([fitted.spent, *([pooled.spent] if pooled else []), *(each.spent for each in more)])
    began = time.monotonic()
    report = report_on(model, task, everything, fitted, config, spent, pooled, members) if config.report else None
    if report is not None:
        folder.log({"event": "report", "step": fitted.fit.steps, "seconds": time.monotonic() - began})
    return TrainResult(fitted.prompt, report, folder.path, fitted.fit, members)


def _of_one(asked: TrainConfig, *, cross_fitted: bool) -> TrainConfig:
    """The settings of one of the trainings that are to be done: each is what it would be alone, with its share.

    Only a budget is divided: among the prompt, the folds of its figures, and the other members of an ensemble.
    """
    count = asked.ensemble + (FOLDS if cross_fitted and asked.report else 0)
    budget = None if asked.budget is None else shared(asked.budget, count)
    return asked.model_copy(update={"ensemble": 1, "budget": budget})


def _refuse_ensemble(task: Task, count: int) -> None:
    if count > 1 and task.readout.kind in ("text", "token-tags"):
        raise ConfigError(
            f"an ensemble of {count} was asked for, and `{task.name}` is {task.kind}: answers of an ensemble become "
            "one, which texts and tags cannot; leave ensemble out"
        )

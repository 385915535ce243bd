"""`train`: from a frozen backbone and a task to a soft prompt and an honest report."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from softprompt.backbones.backbone import Backbone
from softprompt.evaluation.report import ReportCard
from softprompt.home import runs_dir
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.prompts.parameterizations.direct import DirectPrompt
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.task import Task
from softprompt.training.config import TrainConfig
from softprompt.training.fitting import ALL_ROWS, Parts, fit
from softprompt.training.reporting import cross_fitted, few_rows, report_on
from softprompt.training.runs import RunFolder
from softprompt.training.trainer import Fit


@dataclass(frozen=True)
class TrainResult:
    """What training gives.

    Attributes:
        prompt: the soft prompt, calibrated.
        report: how good it is, on rows that took part in no choice; `None` where none was asked for.
        run: the run's folder.
        fit: how the run went.
    """

    prompt: SoftPrompt
    report: ReportCard | None
    run: Path
    fit: Fit


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
        ConfigError: an option out of range.
        TemplateError: the prompt does not fit the backbone's positions, or the template has no `{soft}`.
        TrainingError: the run to resume had other settings, or no step gave a finite loss.
        KeyboardInterrupt: stopped between two steps; `resume=True` goes on.
    """
    config = TrainConfig.read(**{**(config.model_dump() if config else {}), **options})
    settings = _settings(backbone, task, config, start)
    folder = RunFolder(Path(run) if run else runs_dir() / _run_name(task, settings))
    model = PromptedModel(backbone)
    few = few_rows(task)
    everything = Parts.of_all(task, config.seed) if few else Parts(task.splits["train"], task.splits["validation"])
    pooled = None
    if few and config.report:
        pooled = cross_fitted(model, task, config, folder.path, settings, resume=resume, start=start)
    fitted = fit(model, task, everything, config, folder, settings, resume=resume, start=start)
    began = time.monotonic()
    report = report_on(model, task, everything, fitted, config, pooled) if config.report else None
    if report is not None:
        folder.log({"event": "report", "step": fitted.fit.steps, "seconds": time.monotonic() - began})
    return TrainResult(fitted.prompt, report, folder.path, fitted.fit)


def _settings(backbone: Backbone, task: Task, config: TrainConfig, start: SoftPrompt | None) -> dict[str, Any]:
    """What decides the result, as plain JSON: the run's `run.json` and the prompt's provenance."""
    return {
        "task": {"name": task.name, "data": task.data_hash, "rows": {s: len(rows) for s, rows in task.splits.items()}},
        "recipe": {"method": "prompt tuning", "parameterization": DirectPrompt.name, **_deciding(config)},
        "template": task.template.to_json(),
        "readout": task.readout.to_json(),
        "seed": config.seed,
        "fitted on": ALL_ROWS if few_rows(task) else "train",
        "parent": start.digest if start else None,
        "backbone": {
            "name": _plain_name(backbone),
            **backbone.fingerprint.to_json(),
            "dtype": str(backbone.dtype).removeprefix("torch."),
        },
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("softprompt", "torch", "transformers")},
    }


def _deciding(config: TrainConfig) -> dict[str, Any]:
    """The settings that decide the prompt; those of the report and the checkpoints do not."""
    others = {"report", "test_rows", "probe_rows", "checkpoint_every", "seed", "init_prompt"}
    return config.model_dump(exclude=others)


def _plain_name(backbone: Backbone) -> str:
    """The backbone's packaged or hub name; of a path only the last part, which says nothing about the machine."""
    return Path(backbone.name).resolve().name if Path(backbone.name).exists() else backbone.name


def _run_name(task: Task, settings: Mapping[str, Any]) -> str:
    # Without the thread count: resuming with another one is to be refused, not to look like another run.
    named = {key: value for key, value in settings.items() if key != "threads"}
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in task.name.lower())
    return f"{safe}-{digest[:8]}"

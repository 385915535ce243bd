"""What a sweep found: its trials, best first, and the files that show and use them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import softprompt
from softprompt import durable
from softprompt.errors import MissingExtraError, TrainingError
from softprompt.evaluation.tables import percent, shortened, table, wrapped
from softprompt.experiments.plots import search_history
from softprompt.progress import say
from softprompt.tasks.task import Task

SHOWN = 15
"""Trials in the printed table; the JSON has all."""
ROUGH = 200
"""Below this many validation rows, losses of neighbouring trials are told apart by chance."""


@dataclass(frozen=True)
class Trial:
    """One trial that has ended.

    Attributes:
        number: counted from 0.
        settings: what it tried.
        loss: its validation loss in nats; `None`: it failed.
        accuracy: on the same rows, where the task has one.
        examples: rows learned from, each time counted.
        seconds: spent training.
        failed: why it gave no loss.
        again: it failed for want of memory, and the next run of the sweep tries it again.
    """

    number: int
    settings: Mapping[str, Any]
    loss: float | None = None
    accuracy: float | None = None
    examples: int = 0
    seconds: float = 0.0
    failed: str | None = None
    again: bool = False

    @classmethod
    def read(cls, number: int, file: Path) -> Trial:
        """Read the trial's own file."""
        return cls(number, **json.loads(file.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class SweepResult:
    """What a sweep found.

    Attributes:
        folder: where it lives: the journal, a run for each trial, and the files below.
        best: the trial with the lowest validation loss.
        trials: those that have ended, by number.
        settings: the best settings, the fixed ones included: what `best_file` holds.
        best_file: YAML of the settings, for `softprompt train --config`.
        picture: the trials drawn; `None` where nothing can be drawn.
        notes: what to know before believing it, one sentence each.
    """

    folder: Path
    best: Trial
    trials: tuple[Trial, ...]
    settings: Mapping[str, Any]
    best_file: Path
    picture: Path | None
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        folder: Path,
        task: Task,
        trials: Sequence[Trial],
        running: int,
        names: Sequence[str],
        fixed: Mapping[str, Any],
    ) -> SweepResult:
        """Find the best trial and write the files.

        Args:
            folder: of the sweep.
            task: without its test rows.
            trials: those that have ended.
            running: how many have begun and not ended.
            names: the settings that varied.
            fixed: those that did not.

        Raises:
            TrainingError: no trial gave a loss.
            StorageError: a file cannot be written.
        """
        good = [trial for trial in trials if trial.loss is not None]
        if not good:
            reason = trials[-1].failed if trials else "they are still running in other processes"
            raise TrainingError(f"none of the {len(trials) + running} trials gave a validation loss; {reason}")
        best = min(good, key=lambda trial: (trial.loss, trial.number))
        settings = {**fixed, **best.settings}
        file = folder / "best.yaml"
        durable.write_text(file, _yaml(task, best, len(good), settings))
        notes = _notes(task, trials, running)
        made = cls(folder, best, tuple(trials), settings, file, _drawn(folder, task, good, names), notes)
        durable.write_text(folder / "sweep.json", json.dumps(made.to_json(), indent=2, ensure_ascii=False) + "\n")
        return made

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON."""
        return {
            "best": asdict(self.best),
            "settings": dict(self.settings),
            "trials": [asdict(trial) for trial in self.trials],
            "notes": [*self.notes],
        }

    def __str__(self) -> str:
        ranked = sorted(self.trials, key=lambda trial: (trial.loss is None, trial.loss, trial.number))
        names = list(self.best.settings)
        rows = [_cells(trial, names) for trial in ranked[:SHOWN]]
        more = [f"and {len(ranked) - SHOWN} more in {self.folder / 'sweep.json'}"] if len(ranked) > SHOWN else []
        notes = [line for note in self.notes for line in wrapped(note)]
        return "\n".join([*table(["trial", "loss", "accuracy", *names], rows), *more, "", *notes])


def _cells(trial: Trial, names: Sequence[str]) -> list[str]:
    loss = "failed" if trial.loss is None else f"{trial.loss:.4f}"
    return [str(trial.number + 1), loss, percent(trial.accuracy), *(_said(trial.settings[name]) for name in names)]


def _said(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else shortened(str(value), 24)


def _notes(task: Task, trials: Sequence[Trial], running: int) -> tuple[str, ...]:
    rows, failed = len(task.splits["validation"]), sum(trial.loss is None for trial in trials)
    notes = [
        f"Loss and accuracy are on validation rows, used for selection {len(trials)} times over: the best of them is "
        "better here than it will be elsewhere. The report of a training with these settings judges them."
    ]
    if rows < ROUGH:
        notes.append(f"There are only {rows} validation rows: trials with nearly the same loss are equals.")
    if failed:
        notes.append(f"{failed} of {len(trials)} trials failed; why stands in their folders.")
    if running:
        notes.append(f"{running} more are still running in other processes, and are not in this table.")
    return tuple(notes)


def _yaml(task: Task, best: Trial, count: int, settings: Mapping[str, Any]) -> str:
    import yaml

    lines = (
        f"# The best of {count} trials on `{' '.join(task.name.split())}` by validation loss ({best.loss:.4f}, trial "
        f"{best.number + 1}); softprompt {softprompt.__version__}.",
        "# Use: softprompt train DATA --config this-file",
    )
    return "\n".join([*lines, yaml.safe_dump(dict(settings), allow_unicode=True)])


def _drawn(folder: Path, task: Task, trials: Sequence[Trial], names: Sequence[str]) -> Path | None:
    title = f"Sweep on {task.name}: validation loss of {len(trials)} trials"
    try:
        for suffix in (".svg", ".png"):
            picture = search_history(trials, names, folder / f"sweep{suffix}", title=title)
    except MissingExtraError as error:
        say(f"no picture: {error}")
        return None
    return picture

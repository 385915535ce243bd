"""`sweep`: a search for better settings, chosen by validation loss and by nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from softprompt import durable
from softprompt.backbones.backbone import Backbone
from softprompt.errors import ConfigError, MissingExtraError
from softprompt.experiments.folder import ExperimentFolder, digest_of, named
from softprompt.experiments.sweep_result import SweepResult, Trial
from softprompt.experiments.sweep_space import DEFAULT, Space
from softprompt.experiments.trials import FAILURES, explicit, failure, learn, plain, refuse_several, without_test
from softprompt.home import runs_dir
from softprompt.progress import say
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.task import Task
from softprompt.training.config import TrainConfig

if TYPE_CHECKING:
    from softprompt.experiments.sweep_journal import TrialJournal


def require_optuna() -> None:
    """Refuse early what could search nothing.

    Raises:
        MissingExtraError: Optuna is not installed.
    """
    if find_spec("optuna") is None:
        raise MissingExtraError('a sweep needs optuna, which is not installed: pip install "softprompt[search]"')


def sweep(
    backbone: Backbone,
    task: Task,
    space: Space | Mapping[str, Any] | None = None,
    config: TrainConfig | None = None,
    *,
    trials: int = 20,
    folder: str | Path | None = None,
    start: SoftPrompt | None = None,
) -> SweepResult:
    """Search for settings with a low validation loss.

    Tree-structured Parzen estimators (Bergstra et al. 2011) choose what to try next, through Optuna. Every trial is
    one plain training; the test rows are not even handed to it. No trial is cut short: a trial ends by its own
    `patience`. The same call goes on where an earlier one was stopped, and several processes may make it at
    once: each takes trials that nobody else is at, and takes up those whose process is gone, or that failed for want
    of memory in an earlier run.

    Args:
        backbone: the frozen transformer.
        task: what to learn; needs validation rows.
        space: which settings vary; by default rate, length and initialisation.
        config: the settings that do not vary; its seed is the sampler's too.
        trials: how many in all, at least 1, earlier ones and those of other processes counted.
        folder: where the sweep lives; by default one named after task, backbone, space and settings.
        start: with `init="prompt"`, the prompt to start from.

    Raises:
        MissingExtraError: Optuna is not installed.
        ConfigError: `trials` is below 1, a setting both varies and is fixed or makes more of a trial than one plain
            run, or the folder holds another sweep.
        UnknownNameError: a setting that does not exist.
        DataError: the task has no validation rows.
        TrainingError: every trial failed.
        KeyboardInterrupt: stopped; the same call goes on.
    """
    require_optuna()
    if trials < 1:
        raise ConfigError(f"asked for {trials} trials; ask for at least 1")
    found = space if isinstance(space, Space) else Space.read(space or DEFAULT)
    work = _Sweep.of(backbone, task, found, config, trials, folder, start)
    while (turn := work.turn()) is not None:
        with turn.lock_released():
            work.run(turn)
    return work.result()


class _Turn(NamedTuple):
    """A trial that this process holds."""

    number: int
    lock: Any

    @contextmanager
    def lock_released(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.lock.release()


@dataclass(frozen=True)
class _Sweep:
    """One process's part in a sweep."""

    backbone: Backbone
    task: Task
    space: Space
    config: TrainConfig | None
    most: int
    folder: ExperimentFolder
    start: SoftPrompt | None
    journal: TrialJournal
    tried: set[int] = field(default_factory=set)
    """The trials that this process has been at, so that it tries none of them twice."""

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        task: Task,
        space: Space,
        config: TrainConfig | None,
        most: int,
        folder: str | Path | None,
        start: SoftPrompt | None,
    ) -> _Sweep:
        both = sorted(set(space.axes) & (config.model_fields_set if config else set()))
        if both:
            raise ConfigError(f"`{both[0]}` both varies and is fixed; take it out of the search, or do not set it")
        refuse_several(config, "sweep")
        seen = without_test(task)
        definition = _definition(backbone, task, space, config, start)
        place = Path(folder) if folder else runs_dir() / f"sweep-{named(task.name.lower())}-{digest_of(definition)}"
        there = ExperimentFolder(place)
        there.begin(definition)
        from softprompt.experiments.sweep_journal import TrialJournal

        with there.held("sweep", wait=True):
            journal = TrialJournal(place / "journal.log", space, plain(config, {}).seed)
        return cls(backbone, seen, space, config, most, there, start, journal)

    def turn(self) -> _Turn | None:
        """Take up a trial whose process is gone, or begin one; `None` when there is nothing left to begin."""
        with self.folder.held("sweep", wait=True):
            for number in [number for number in self.journal.running() if number not in self.tried]:
                if lock := self.folder.claim(f"trial-{number}"):
                    return _Turn(number, lock)
            if len(self.journal.begun()) >= self.most:
                return None
            number = self.journal.ask()
            return _Turn(number, self.folder.claim(f"trial-{number}", wait=True))

    def run(self, turn: _Turn) -> None:
        """Train, unless that was done before a kill, and end the trial, or leave it to the next run of the sweep."""
        self.tried.add(turn.number)
        file = self._file(turn.number)
        if not file.exists() or Trial.read(turn.number, file).again:
            measured = self._measured(turn.number)
            durable.write_text(file, json.dumps(measured, indent=2, ensure_ascii=False) + "\n")
        trial = Trial.read(turn.number, file)
        if trial.loss is not None:
            self.journal.tell(turn.number, trial.loss)
        elif not trial.again:
            self.journal.fail(turn.number)
        self._tell(trial)

    def _measured(self, number: int) -> dict[str, Any]:
        settings = self.journal.settings(number)
        say(f"trial {number + 1} of {self.most}: {', '.join(f'{name} {value}' for name, value in settings.items())}")
        try:
            fit = learn(
                self.backbone, self.task, plain(self.config, settings), self._file(number).parent, self.start
            ).fit
        except FAILURES as error:
            return {"settings": settings, **failure(error)}
        measured = {"loss": fit.validation["loss"], "accuracy": fit.validation.get("accuracy")}
        return {"settings": settings, **measured, "examples": fit.examples, "seconds": fit.seconds}

    def _tell(self, trial: Trial) -> None:
        ended = self.trials()
        best = min((t for t in ended if t.loss is not None), key=lambda t: (t.loss, t.number), default=None)
        news = f"failed: {trial.failed}" if trial.loss is None else f"validation loss {trial.loss:.4f}"
        so_far = "" if best is None else f"; best so far {best.loss:.4f}, trial {best.number + 1}"
        say(f"trial {trial.number + 1} of {self.most}: {news}{so_far}")

    def trials(self) -> tuple[Trial, ...]:
        """The trials that have ended, by number."""
        begun = self.journal.begun()
        return tuple(Trial.read(number, self._file(number)) for number in begun if self._file(number).exists())

    def result(self) -> SweepResult:
        """What has been found so far; its files are written."""
        done = self.trials()
        running = len(self.journal.begun()) - len(done)
        return SweepResult.of(self.folder.path, self.task, done, running, tuple(self.space.axes), explicit(self.config))

    def _file(self, number: int) -> Path:
        return self.folder.path / "trials" / f"{number + 1:04}" / "trial.json"


def _definition(
    backbone: Backbone, task: Task, space: Space, config: TrainConfig | None, start: SoftPrompt | None
) -> dict[str, Any]:
    """What decides what a sweep finds; how many trials it has does not."""
    return {
        "experiment": "sweep",
        "task": {"name": task.name, "data": task.data_hash},
        "template": task.template.to_json(),
        "readout": task.readout.to_json(),
        "backbone": backbone.fingerprint.to_json(),
        "space": space.to_json(),
        "settings": explicit(config),
        "parent": start.digest if start else None,
    }

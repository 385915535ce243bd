"""The trials of a sweep in an Optuna journal: a file of lines, written by any number of processes.

The one door of Optuna, which the `search` extra installs; imported only when a sweep runs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from softprompt.experiments.sweep_space import Choice, Space, Span

_NAME = "sweep"


class _MendingLock:
    """What a process holds while it writes to the journal.

    The system ends it with the process, where Optuna's own lock outlives a kill by half a minute. Whoever gets it
    first cuts off a line that a killed writer left unfinished: the next line would make the two unreadable for good,
    and what an unfinished line says has not happened.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, FileLock(f"{path}.lock", is_singleton=False)

    def acquire(self) -> bool:
        self._lock.acquire()
        self._mend()
        return True

    def release(self) -> None:
        self._lock.release()

    def _mend(self) -> None:
        with self._path.open("r+b") as stream:
            data = stream.read()
            if data and not data.endswith(b"\n"):
                stream.truncate(data.rfind(b"\n") + 1)


class TrialJournal:
    """The trials of one sweep.

    Args:
        path: the journal's file; its folder exists.
        space: what is searched.
        seed: of the sampler. What trial n tries depends on it, on n and on the trials that have ended, and so not
            on how often the sweep was interrupted.
    """

    def __init__(self, path: Path, space: Space, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._seed = space, seed
        storage = JournalStorage(JournalFileBackend(os.fspath(path), _MendingLock(path)))
        self._study = optuna.create_study(storage=storage, study_name=_NAME, direction="minimize", load_if_exists=True)

    def ask(self) -> int:
        """Begin a trial and return its number."""
        self._study.sampler = optuna.samplers.TPESampler(seed=self._stream(len(self.begun())))
        number: int = self._study.ask({name: _distribution(axis) for name, axis in self._space.axes.items()}).number
        return number

    def begun(self) -> dict[int, TrialState]:
        """Return the state of each trial that has settings; one that was killed before has none, and is no trial."""
        return {trial.number: trial.state for trial in self._trials() if self._is_whole(trial)}

    def running(self) -> tuple[int, ...]:
        """Return the trials that have begun and not ended, and forget those that were killed before they began."""
        found = [trial for trial in self._trials() if trial.state == TrialState.RUNNING]
        for trial in found:
            if not self._is_whole(trial):
                self.fail(trial.number)
        return tuple(trial.number for trial in found if self._is_whole(trial))

    def settings(self, number: int) -> dict[str, Any]:
        """Return what a trial tries."""
        params = self._trials()[number].params
        return {name: _decoded(axis, params[name]) for name, axis in self._space.axes.items()}

    def tell(self, number: int, loss: float) -> None:
        """End a trial with its validation loss, unless another process, which had it before, has ended it."""
        self._study.tell(number, loss, skip_if_finished=True)

    def fail(self, number: int) -> None:
        """End a trial that gave no loss, unless another process has ended it."""
        self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def _trials(self) -> list[FrozenTrial]:
        trials: list[FrozenTrial] = self._study.get_trials(deepcopy=False)
        return trials

    def _is_whole(self, trial: FrozenTrial) -> bool:
        return set(self._space.axes) <= set(trial.params)

    def _stream(self, number: int) -> int:
        digest = hashlib.sha256(f"{self._seed}/{number}".encode()).digest()
        return int.from_bytes(digest[:4], "big")


def _distribution(axis: Span | Choice) -> BaseDistribution:
    if isinstance(axis, Choice):
        return CategoricalDistribution([_encoded(value) for value in axis.values])
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def _encoded(value: Any) -> str | int | float | bool | None:
    """A value that Optuna can keep: mappings and lists as JSON."""
    return value if value is None or isinstance(value, str | int | float | bool) else json.dumps(value)


def _decoded(axis: Span | Choice, value: Any) -> Any:
    if isinstance(axis, Choice):
        known: Mapping[Any, Any] = {_encoded(each): each for each in axis.values}
        return known[value]
    return value

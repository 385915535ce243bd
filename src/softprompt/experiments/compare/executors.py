"""Where the cells of a comparison run: on this machine, some at a time, or as tasks on a Ray cluster."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any, Protocol

from softprompt.errors import ConfigError, MissingExtraError
from softprompt.experiments.compare.cells import Ask
from softprompt.experiments.compare.outcomes import Outcome
from softprompt.experiments.compare.own_process import OwnProcess, python
from softprompt.registry import unknown_name

CELL = python("softprompt.experiments.compare.cell")
"""What starts the process of a cell."""
NAMES = ("local", "ray")

Take = Callable[[], Ask | None]
"""Gives the next cell; `None`: none can begin now, though one may when another has ended."""


class Executor(Protocol):
    """Runs cells, each in a process of its own."""

    def run(self, take: Take) -> Generator[Outcome, None, None]:
        """Run cells until there are none, and give each outcome as its cell ends.

        Args:
            take: gives the next cell; asked anew whenever one has ended.
        """
        ...


def executor(name: str, jobs: int = 1, command: Sequence[str] = CELL) -> Executor:
    """Return an executor by its name.

    Args:
        name: `local` or `ray`.
        jobs: cells that run at once, at least 1.
        command: what starts the process of a cell.

    Raises:
        UnknownNameError: no such executor.
        ConfigError: `jobs` is below 1.
        MissingExtraError: Ray is not installed.
    """
    if name not in NAMES:
        raise unknown_name("executor", name, NAMES)
    if jobs < 1:
        raise ConfigError(f"asked for {jobs} jobs; ask for at least 1")
    return LocalExecutor(jobs, command) if name == "local" else RayExecutor(jobs, command)


def start(ask: Ask, command: Sequence[str], threads: int | None = None) -> OwnProcess:
    """Start the process of a cell.

    Args:
        ask: the cell.
        command: the words that start it.
        threads: that it computes with; None: as it likes.
    """
    own = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    return OwnProcess(command, ask.to_json(), {"TOKENIZERS_PARALLELISM": "false", **own})


def outcome_of(ask: Ask, process: OwnProcess) -> Outcome:
    """Wait for the process of a cell and return what it found; one that died says how."""
    began = time.monotonic()
    end = process.wait()
    found = Outcome.read(ask.file) if end.answer is not None else None
    if found is None:
        why = end.why or f"its process left no outcome in `{ask.file.name}`"
        found = Outcome(ask.cell, origin=ask.origin, failed=why, again=True, notes=ask.notes)
    return replace(found, seconds=time.monotonic() - began)


class _Rounds(ABC):
    """The one loop of every executor: keep as many cells running as may, give what ends, ask for more.

    Args:
        jobs: cells that run at once.
        command: what starts the process of a cell.
    """

    def __init__(self, jobs: int, command: Sequence[str]) -> None:
        self._jobs, self._command = jobs, command

    def run(self, take: Take) -> Generator[Outcome, None, None]:
        running: list[Any] = []
        try:
            while True:
                while len(running) < self._jobs and (ask := take()) is not None:
                    running.append(self._start(ask))
                if not running:
                    return
                ended = self._first(running)
                running.remove(ended)
                yield self._outcome(ended)
        finally:
            self._stop(running)

    @abstractmethod
    def _start(self, ask: Ask) -> Any:
        """Start a cell."""

    @abstractmethod
    def _first(self, running: list[Any]) -> Any:
        """Wait until one of those that run has ended."""

    @abstractmethod
    def _outcome(self, ended: Any) -> Outcome:
        """Return what it found."""

    @abstractmethod
    def _stop(self, running: list[Any]) -> None:
        """End those that still run: nobody waits for them any more."""


class LocalExecutor(_Rounds):
    """Runs cells on this machine, `jobs` at a time, which share its cores.

    Args:
        jobs: cells that run at once.
        command: what starts the process of a cell.
    """

    def __init__(self, jobs: int = 1, command: Sequence[str] = CELL) -> None:
        super().__init__(jobs, command)
        self._pool = ThreadPoolExecutor(jobs)
        self._processes: dict[Future[Outcome], OwnProcess] = {}

    def _start(self, ask: Ask) -> Future[Outcome]:
        threads = None if self._jobs == 1 else max(1, (os.cpu_count() or 1) // self._jobs)
        process = start(ask, self._command, threads)
        future = self._pool.submit(outcome_of, ask, process)
        self._processes[future] = process
        return future

    def _first(self, running: list[Any]) -> Any:
        return next(iter(wait(running, return_when=FIRST_COMPLETED).done))

    def _outcome(self, ended: Any) -> Outcome:
        del self._processes[ended]
        found: Outcome = ended.result()
        return found

    def _stop(self, running: list[Any]) -> None:
        for process in self._processes.values():
            process.end()
        self._processes.clear()
        self._pool.shutdown()


class RayExecutor(_Rounds):
    """Runs cells as tasks on the Ray cluster that `RAY_ADDRESS` names, or on one that is started here.

    Every machine must reach the folder of the comparison, the data and the backbone by the same names.

    Args:
        jobs: cells that run at once; Ray finds room for them.
        command: what starts the process of a cell.

    Raises:
        MissingExtraError: Ray is not installed.
    """

    def __init__(self, jobs: int = 1, command: Sequence[str] = CELL) -> None:
        super().__init__(jobs, command)
        self._ray = _imported()
        self._ours = not self._ray.is_initialized()
        if self._ours:
            self._ray.init(include_dashboard=False, log_to_driver=True)
        self._task = self._ray.remote(max_retries=0)(_remote)
        self._asks: dict[Any, Ask] = {}

    def _start(self, ask: Ask) -> Any:
        reference = self._task.remote(ask.to_json(), tuple(self._command))
        self._asks[reference] = ask
        return reference

    def _first(self, running: list[Any]) -> Any:
        return self._ray.wait(running, num_returns=1)[0][0]

    def _outcome(self, ended: Any) -> Outcome:
        ask = self._asks.pop(ended)
        try:
            found: Outcome = self._ray.get(ended)
        except self._ray.exceptions.RayError as error:
            why = f"its Ray task was lost: {' '.join(str(error).split())[:300]}"
            return Outcome(ask.cell, origin=ask.origin, failed=why, again=True, notes=ask.notes)
        return found

    def _stop(self, running: list[Any]) -> None:
        for reference in running:
            self._ray.cancel(reference, force=True)
        if self._ours:
            self._ray.shutdown()


def _remote(plain: dict[str, Any], command: tuple[str, ...]) -> Outcome:
    """Run a cell where Ray put it, in a process of its own there too: its memory is measured, and its end survived."""
    ask = Ask.of(plain)
    return outcome_of(ask, start(ask, command))


def _imported() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError(
            'the executor `ray` needs Ray, which is not installed: pip install "softprompt[ray]"'
        ) from error
    return ray

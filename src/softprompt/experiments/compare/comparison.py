"""`compare`: soft prompts and everything a user might pick instead, on the user's rows and model, tuned alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from softprompt import durable
from softprompt.errors import ConfigError, StorageError
from softprompt.experiments.compare.cells import ASIDE, Ask, CellFolder, said
from softprompt.experiments.compare.executors import CELL, Executor, executor
from softprompt.experiments.compare.hours import Hours, in_words, seconds_a_token
from softprompt.experiments.compare.ledger import Ledger
from softprompt.experiments.compare.outcomes import CompareCell, Outcome
from softprompt.experiments.compare.plan import SEARCH_SHARE, Layout
from softprompt.experiments.compare.queue import Queue
from softprompt.experiments.compare.rows import TEST_ROWS
from softprompt.experiments.compare.setup import (
    QUICK_EXAMPLES,
    QUICK_SECONDS,
    QUICK_TEST_ROWS,
    ROWS,
    Bounds,
    Subject,
    facts_of,
    layout_of,
    place_of,
    read_tasks,
    wherever,
)
from softprompt.experiments.folder import digest_of, named
from softprompt.progress import say

PLAN = "comparison.json"


@dataclass(frozen=True)
class Plan:
    """What a comparison will do.

    Attributes:
        cells: all of them in their order, each with its state and its seconds.
        notes: which rows are used, a sentence a task.
        folder: where the comparison lives.
    """

    cells: tuple[tuple[CompareCell, str, float], ...]
    notes: tuple[str, ...]
    folder: Path

    @property
    def seconds(self) -> float:
        """An estimate of the time that is left."""
        return sum(seconds for _, state, seconds in self.cells if state == "to do")

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON."""
        cells = [{**asdict(cell), "state": state, "seconds": round(s, 1)} for cell, state, s in self.cells]
        return {"folder": str(self.folder), "seconds left": self.seconds, "notes": [*self.notes], "cells": cells}

    def __str__(self) -> str:
        lines = [f"{state:<7}{in_words(seconds):>8}  {said(cell)}" for cell, state, seconds in self.cells]
        ended = sum(state != "to do" for _, state, _ in self.cells)
        all_time = sum(seconds for _, _, seconds in self.cells)
        total = (
            f"{len(self.cells)} cells, {ended} done; about {in_words(all_time)} in all, {in_words(self.seconds)} left"
        )
        return "\n".join([*lines, *self.notes, total, f"folder: {self.folder}"])


@dataclass(frozen=True)
class Compared:
    """What there is when a comparison has run.

    Attributes:
        folder: where the outcomes are.
        outcomes: of the cells that have ended, in the order of the plan.
        missing: cells that have not ended.
    """

    folder: Path
    outcomes: tuple[Outcome, ...]
    missing: tuple[CompareCell, ...]

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The outcomes without a figure."""
        return tuple(outcome for outcome in self.outcomes if outcome.failed)


@dataclass(frozen=True)
class Comparison:
    """A comparison that can be planned, run, and run again: cells that have ended are not repeated.

    Attributes:
        layout: its cells.
        subjects: its tasks.
        options: arguments of `load_task`.
        backbone: what `load_backbone` takes.
        device, dtype: where and in what it runs; None: the best there is.
        bounds: how much it may use.
        folder: where it lives.
        hours: how long cells take.
        command: what starts the process of a cell.
    """

    layout: Layout
    subjects: Mapping[str, Subject]
    options: Mapping[str, Any]
    backbone: str
    device: str | None
    dtype: str | None
    bounds: Bounds
    folder: CellFolder
    hours: Hours
    command: tuple[str, ...] = CELL

    @classmethod
    def of(
        cls,
        backbone: str,
        tasks: Sequence[str | Path],
        *,
        methods: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        rates: Sequence[float] | None = None,
        data_rows: Sequence[int] | None = None,
        rows: int = ROWS,
        seconds: float | None = None,
        quick: bool = False,
        out: str | Path | None = None,
        options: Mapping[str, Any] | None = None,
        device: str | None = None,
        dtype: str | None = None,
        command: Sequence[str] = CELL,
    ) -> Comparison:
        """Lay out a comparison; the backbone is loaded once, in a process of its own, to know it.

        Args:
            backbone: what `load_backbone` takes.
            tasks: packaged names, files or folders; each is a task.
            methods: `method` or `method:readout` each, every one on every task and over every seed; by default eight
                families over every seed, and all others with the first seed on the first two tasks.
            seeds: of the main cells; by default 0, 1 and 2.
            rates: that are searched, as multiples of each method's own; by default 0.3, 1 and 3.
            data_rows: training rows of the cells that show what few rows are enough for; by default 16, 64 and 256.
            rows: training rows at most, at least 1.
            seconds: of one training at most; None: until its validation stops improving.
            quick: few methods, one seed, one rate, bounded trainings.
            out: where the comparison lives; by default a folder under the home, named after backbone and tasks.
            options: arguments of `load_task`, for every task.
            device: where it runs.
            dtype: what it computes in.
            command: what starts the process of a cell.

        Raises:
            ConfigError: no task, two of the same name, a task that is no classification; something given twice or out
                of range; a readout that a method does not offer.
            UnknownNameError: no such method; the nearest are offered.
            DataError: rows that cannot be used.
            BackboneError, MissingExtraError: the backbone cannot be loaded.
        """
        if not tasks or rows < 1:
            raise ConfigError(f"asked for {len(tasks)} tasks and {rows} training rows; a comparison needs one of each")
        bounds = _bounds(rows, seconds, quick=quick)
        given = dict(options or {})
        read = read_tasks(tasks, given)
        train = {name: min(rows, len(task.splits["train"])) for name, (_, task) in read.items()}
        layout = layout_of(train, methods, seeds, rates, data_rows, quick=quick)
        facts = facts_of(command, backbone, device, dtype)
        subjects = {
            name: Subject.of(source, task, backbone, facts, bounds) for name, (source, task) in read.items()
        }  # fmt: skip
        token = seconds_a_token(facts["seconds a token"], facts["parameters"])
        sizes = {name: subject.size for name, subject in subjects.items()}
        hours = Hours(layout, sizes, token, bounds.seconds, bounds.examples)
        folder = CellFolder(Path(out) if out else place_of(backbone, subjects))
        return cls(layout, subjects, given, backbone, device, dtype, bounds, folder, hours, tuple(command))

    def ledger(self) -> Ledger:
        """Return what has ended."""
        return Ledger(self.layout, self.folder, {name: subject.origin for name, subject in self.subjects.items()})

    def plan(self) -> Plan:
        """Return what is to be done, without doing it."""
        ledger, cells = self.ledger(), tuple(self.layout)
        states = {cell: ledger.state(cell) for cell in cells}
        ended = tuple(ledger.outcomes())
        taken = {outcome.cell: outcome.seconds for outcome in ended}
        left = self.hours.of(cells, ended)
        settled = {cell: ledger.settled(cell) or cell for cell in cells}
        seconds = {c: left[c] if states[c] == "to do" else taken[settled[c]] for c in cells}
        return Plan(tuple((settled[c], states[c], seconds[c]) for c in cells), self._notes, self.folder.path)

    def run(self, how: Executor | str = "local", *, jobs: int = 1, budget: float | None = None) -> Compared:
        """Run every cell that has not ended, and return what there is then.

        Args:
            how: `local`, `ray`, or an executor.
            jobs: cells that run at once.
            budget: seconds after which no cell is begun; None: no bound.

        Raises:
            ConfigError: another process is at it, or `jobs` is below 1.
            UnknownNameError: no such executor.
            MissingExtraError: Ray is not installed.
            StorageError: the folder cannot be written, or a cell's file is damaged.
            KeyboardInterrupt: stopped; the same call goes on.
        """
        with self.folder.work.held("comparison") as mine:
            if not mine:
                raise ConfigError(
                    f"another process runs a comparison in `{self.folder.path}`; let it end, or name another folder"
                )
            self._begin()
            ledger = self.ledger()
            for outcome in ledger.outcomes():
                self.folder.tidy(outcome)  # a kill may have come between its last two acts
            queue = Queue(self.layout, ledger, self.hours, self.ask, budget)
            if queue.left():
                self._work(queue, executor(how, jobs, self.command) if isinstance(how, str) else how)
            queue.tell_end()
        missing = tuple(cell for cell in self.layout if ledger.state(cell) == "to do")
        return Compared(self.folder.path, tuple(ledger.outcomes()), missing)

    def ask(self, cell: CompareCell, notes: tuple[str, ...]) -> Ask:
        """Return what the process of a cell is told."""
        return Ask(
            cell=cell, source=self.subjects[cell.task].source, backbone=wherever(self.backbone),
            folder=str(self.folder.checkpoints(cell).absolute()), options=self.options, device=self.device,
            dtype=self.dtype, **asdict(self.bounds), share=SEARCH_SHARE if cell.role == "search" else 1.0,
            measured=self.layout.measured(cell), origin=self.subjects[cell.task].origin, notes=notes,
        )  # fmt: skip

    @property
    def _notes(self) -> tuple[str, ...]:
        return tuple(subject.note for subject in self.subjects.values())

    def _begin(self) -> None:
        """Write down what is planned, beside what earlier calls planned here, and the rows that are judged."""
        cells = [asdict(cell) for cell in (*self._before(), *self.layout)]
        told = {"notes": [*self._notes], "origins": self._origins, "cells": cells}
        durable.write_text(self.folder.path / PLAN, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
        for task, subject in self.subjects.items():
            moved = self.folder.sort(task, subject.origin)
            if moved:
                what = "outcome" if moved == 1 else "outcomes"
                say(f"{task}: {moved} {what} of other rows, bounds, backbone or release put aside, in `{ASIDE}`")
            durable.write_text(self.folder.path / named(task) / "rows.jsonl", subject.texts)

    @property
    def _origins(self) -> dict[str, str]:
        return {name: digest_of(subject.origin) for name, subject in self.subjects.items()}

    def _before(self) -> list[CompareCell]:
        """What earlier calls planned here beside this one, but for what they planned on rows or by bounds of others."""
        then, now, mine = _plan_in(self.folder.path)["origins"], self._origins, set(self.layout)
        cells = [cell for cell in planned(self.folder.path) if cell not in mine]
        return [cell for cell in cells if now.get(cell.task) in (None, then.get(cell.task))]

    def _work(self, queue: Queue, how: Executor) -> None:
        """Run what can be run; however that ends, no cell goes on unseen."""
        with closing(how.run(queue.take)) as outcomes:
            for outcome in outcomes:
                queue.keep(outcome)


def compare(
    backbone: str,
    tasks: Sequence[str | Path],
    *,
    executor: Executor | str = "local",
    jobs: int = 1,
    budget: float | None = None,
    **layout: Any,
) -> Compared:
    """Compare soft prompts with what a user might pick instead; the same call goes on where one was stopped.

    All methods have the same splits, seeds, rows and readouts, and the same search: each rate of a log grid at seed 0,
    in a shortened training, the lowest validation loss taken. Each cell is a process of its own, so that one that
    fails is a line that says why.

    Args:
        backbone: what `load_backbone` takes.
        tasks: packaged names, files or folders; each is a task.
        executor: `local`, `ray`, or an executor.
        jobs: cells that run at once.
        budget: seconds after which no cell is begun; None: no bound.
        layout: other arguments of `Comparison.of`.

    Raises:
        ConfigError, UnknownNameError, DataError, BackboneError, MissingExtraError, StorageError: as for
            `Comparison.of` and `Comparison.run`.
        KeyboardInterrupt: stopped; the same call goes on.
    """
    return Comparison.of(backbone, tasks, **layout).run(executor, jobs=jobs, budget=budget)


def planned(folder: Path) -> tuple[CompareCell, ...]:
    """Return the cells that a comparison in a folder has; none where none was begun.

    Raises:
        StorageError: its plan is damaged.
    """
    return tuple(_plan_in(folder)["cells"])


def _plan_in(folder: Path) -> dict[str, Any]:
    file = folder / PLAN
    if not file.exists():
        return {"cells": [], "origins": {}}
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        return {"cells": [CompareCell(**cell) for cell in plain["cells"]], "origins": dict(plain.get("origins", {}))}
    except (ValueError, TypeError, KeyError) as error:
        raise StorageError(f"`{file}` is damaged ({error}); take it away, and the next run writes it anew") from error


def _bounds(rows: int, seconds: float | None, *, quick: bool) -> Bounds:
    if quick:
        return Bounds(rows, QUICK_TEST_ROWS, QUICK_EXAMPLES, seconds or QUICK_SECONDS)
    return Bounds(rows, TEST_ROWS, None, seconds)

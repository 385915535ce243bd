"""The outcomes of a comparison as its folder holds them: by task, and there by method and readout."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from softprompt.errors import DataError, StorageError
from softprompt.experiments.compare.outcomes import CompareCell, Outcome
from softprompt.experiments.folder import named
from softprompt.experiments.report.names import Key
from softprompt.experiments.report.statistics import Answers
from softprompt.shapes import Int


@dataclass(frozen=True)
class Entry:
    """What there is of a method with a readout on a task.

    Attributes:
        key: which.
        main: outcomes with answers, by seed.
        failed: main and data cells that have no figure.
        search: the short trainings that chose its rate.
        data: outcomes with answers on some of the training rows, by rows and seed.
        missing: seeds of main cells that were planned and have not ended.
    """

    key: Key
    main: tuple[Outcome, ...] = ()
    failed: tuple[Outcome, ...] = ()
    search: tuple[Outcome, ...] = ()
    data: tuple[Outcome, ...] = ()
    missing: tuple[int, ...] = ()

    @property
    def answers(self) -> Answers:
        """What it answered on the test rows, by each seed."""
        return answers_of(self.main)

    @property
    def why(self) -> str:
        """Say why it has no figure; empty where it has."""
        if self.main:
            return ""
        failed = [outcome for outcome in self.failed if outcome.cell.role == "main"]
        if not failed:
            return "missing: it has not been run, or has not ended"
        last = failed[0]
        return f"failed: {last.failed}" + (" (the next run tries it again)" if last.again else "")


@dataclass(frozen=True)
class TaskOutcomes:
    """All outcomes of one task.

    Attributes:
        name: of the task.
        labels: in order.
        gold: place of the right label of each test row.
        entries: in the order of the report, those that are missing included.
        texts: the fields of each test row; empty where the folder has no `rows.jsonl`.
        unlike: what differs between its cells that should be alike, a sentence each.
    """

    name: str
    labels: tuple[str, ...]
    gold: Int[np.ndarray, " B"]
    entries: tuple[Entry, ...]
    texts: tuple[Mapping[str, Any], ...] = ()
    unlike: tuple[str, ...] = ()


def answers_of(outcomes: Iterable[Outcome]) -> Answers:
    """Stack what several seeds answered on the same rows."""
    each = list(outcomes)
    return Answers(
        np.asarray([outcome.predicted for outcome in each], dtype=np.int64),
        np.asarray([outcome.gold_log for outcome in each], dtype=np.float64),
        np.asarray([outcome.confidence for outcome in each], dtype=np.float64),
    )


def read_folder(folder: Path, planned: Iterable[CompareCell] | None = None) -> tuple[TaskOutcomes, ...]:
    """Read the outcomes of a comparison, task by task in the order of their names.

    Args:
        folder: with one folder a task, and in it one file a cell.
        planned: all cells of the comparison; those without a file are shown as missing. None: a method that another
            task has is taken to be missing.

    Raises:
        DataError: there is no outcome, or cells of one task did not answer the same rows.
        StorageError: a file is damaged.
    """
    found: dict[str, dict[Path, Outcome]] = {}
    for file in sorted(folder.glob("*/*.json")):
        if file.name == "report.json" or (file.parent / "experiment.json").exists():
            continue  # a report that was written inside, or where cells work
        outcome = Outcome.read(file)
        if outcome is not None:
            found.setdefault(outcome.cell.task, {})[file] = outcome
    if not found:
        raise DataError(f"`{folder}` holds no outcome; give the folder of a comparison, one folder a task in it")
    seeds = _planned_seeds(found, planned)
    tasks = sorted({*found, *(task for task, _ in seeds)})
    read = (_task(task, found.get(task, {}), {k: s for (t, k), s in seeds.items() if t == task}) for task in tasks)
    return tuple(replace(task, texts=_texts(folder / named(task.name), len(task.gold))) for task in read)


def _planned_seeds(
    found: Mapping[str, Mapping[Path, Outcome]], planned: Iterable[CompareCell] | None
) -> dict[tuple[str, Key], set[int]]:
    """Which seeds of a main cell each task and method should have; no seed: the method should be there."""
    seeds: dict[tuple[str, Key], set[int]] = {}
    if planned is None:
        every = {
            Key(o.cell.method, o.cell.readout)
            for cells in found.values()
            for o in cells.values()
            if o.cell.role != "search"
        }
        return {(task, key): set() for task in found for key in every}
    for cell in planned:
        if cell.role == "main":
            seeds.setdefault((cell.task, Key(cell.method, cell.readout)), set()).add(cell.seed)
    return seeds


def _task(name: str, cells: Mapping[Path, Outcome], planned: Mapping[Key, set[int]]) -> TaskOutcomes:
    labels, gold = _same_rows(cells)
    groups: dict[Key, dict[Path, Outcome]] = {key: {} for key in planned}
    for file, outcome in cells.items():
        groups.setdefault(_entry_of(outcome, groups), {})[file] = outcome
    entries = (_entry(key, group, planned.get(key, set())) for key, group in groups.items())
    ordered = sorted(entries, key=lambda entry: entry.key.order)
    return TaskOutcomes(name, labels, gold, tuple(ordered), unlike=_unlike(cells))


def _entry_of(outcome: Outcome, groups: Iterable[Key]) -> Key:
    """A search may be done once for both readouts of a method: its cells then have none, and go to the first."""
    key = Key(outcome.cell.method, outcome.cell.readout)
    others = [other for other in groups if other.method == key.method]
    return others[0] if outcome.cell.role == "search" and key not in others and others else key


def _same_rows(cells: Mapping[Path, Outcome]) -> tuple[tuple[str, ...], Int[np.ndarray, " B"]]:
    answered = [(file, outcome) for file, outcome in cells.items() if outcome.gold]
    if not answered:
        return (), np.zeros(0, dtype=np.int64)
    first_file, first = answered[0]
    for file, outcome in answered:
        if (outcome.labels, outcome.gold) != (first.labels, first.gold):
            asked = f"`{first_file}` and `{file}` answered different test rows or labels"
            raise DataError(f"{asked}; compare cells of one comparison, and take the others away")
        if len({len(outcome.gold), len(outcome.predicted), len(outcome.gold_log), len(outcome.confidence)}) > 1:
            raise StorageError(f"`{file}` does not hold one answer a row; take it away, and its cell is run again")
    return first.labels, np.asarray(first.gold, dtype=np.int64)


def _entry(key: Key, cells: Mapping[Path, Outcome], planned: set[int]) -> Entry:
    good = {file: outcome for file, outcome in cells.items() if outcome.failed is None and outcome.gold}
    main = sorted(_of_role(good, "main"), key=lambda outcome: outcome.cell.seed)
    repeated = [a.cell for a, b in pairwise(main) if a.cell.seed == b.cell.seed]
    if repeated:
        named = [f"`{file}`" for file, outcome in good.items() if outcome.cell.seed == repeated[0].seed]
        raise DataError(f"seed {repeated[0].seed} of {key.title} has more than one main cell ({', '.join(named)})")
    ended = {outcome.cell.seed for outcome in cells.values() if outcome.cell.role == "main"}
    data = sorted(_of_role(good, "data"), key=lambda outcome: (outcome.cell.rows, outcome.cell.seed))
    search = sorted(_of_role(cells, "search"), key=lambda outcome: outcome.cell.rate)
    bad = [o for o in cells.values() if o.failed is not None and o.cell.role != "search"]
    return Entry(key, tuple(main), tuple(bad), tuple(search), tuple(data), tuple(sorted(planned - ended)))


def _of_role(cells: Mapping[Path, Outcome], role: str) -> list[Outcome]:
    return [outcome for outcome in cells.values() if outcome.cell.role == role]


def _unlike(cells: Mapping[Path, Outcome]) -> tuple[str, ...]:
    """Say what differs between cells that have a figure: of `origin`, of the code and machine, of a method's rates."""
    found: dict[str, dict[str, int]] = {}
    for outcome in cells.values():
        for name, value in _made_from(outcome) if outcome.failed is None else ():
            counts = found.setdefault(name, {})
            told = json.dumps(value, sort_keys=True, ensure_ascii=False)
            counts[told] = counts.get(told, 0) + 1
    return tuple(
        f"its cells differ in {name}: " + "; ".join(f"{value} in {count}" for value, count in sorted(counts.items()))
        for name, counts in sorted(found.items())
        if len(counts) > 1
    )


def _made_from(outcome: Outcome) -> Iterator[tuple[str, Any]]:
    yield from outcome.origin.items()
    for name, value in outcome.provenance.items():
        parts = value.items() if isinstance(value, Mapping) else ()
        yield from ((f"{name}: {part}", each) for part, each in parts) if parts else [(name, value)]
    if outcome.cell.role != "search":
        key = Key(outcome.cell.method, outcome.cell.readout)
        yield f"the rate of {key.title}", outcome.cell.rate


def _texts(folder: Path, rows: int) -> tuple[Mapping[str, Any], ...]:
    file = folder / "rows.jsonl"
    if not rows or not file.exists():
        return ()
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
        texts = tuple(dict(json.loads(line)["fields"]) for line in lines if line.strip())
    except (ValueError, TypeError, KeyError) as error:
        raise StorageError(f"`{file}` is damaged ({error}); take it away, and the report does without texts") from error
    if len(texts) != rows:
        raise DataError(f"`{file}` holds {len(texts):,} rows, and {rows:,} were answered; take it away")
    return texts

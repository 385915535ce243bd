"""What a comparison must know before its first cell: the tasks and their rows, the methods, the backbone."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from softprompt import __version__, errors
from softprompt.errors import ConfigError, SoftPromptError
from softprompt.experiments.compare.cells import ASIDE, WORK
from softprompt.experiments.compare.hours import Size
from softprompt.experiments.compare.own_process import OwnProcess
from softprompt.experiments.compare.plan import (
    DATA_ROWS,
    MAIN,
    QUICK,
    QUICK_RATES,
    QUICK_SEEDS,
    RATES,
    SEEDS,
    Layout,
    arms_of,
)
from softprompt.experiments.compare.rows import TEST_ROWS, check_task, judged
from softprompt.experiments.folder import digest_of, named
from softprompt.home import runs_dir
from softprompt.tasks.load import load_task
from softprompt.tasks.task import Task

ROWS = 2_000
"""Training rows that a comparison uses, at most."""
QUICK_TEST_ROWS, QUICK_EXAMPLES, QUICK_SECONDS = 500, 4_000, 150.0
"""What bounds a quick comparison: test rows, rows learned from, and seconds of each training."""


@dataclass(frozen=True)
class Bounds:
    """How much a comparison may use; the same for every method.

    Attributes:
        rows: training rows at most.
        test_rows: at most.
        examples: rows that one training learns from at most, each time counted; None: no bound.
        seconds: of one training at most; None: no bound.
    """

    rows: int = ROWS
    test_rows: int = TEST_ROWS
    examples: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Subject:
    """A task of a comparison, as far as it must be known to plan it.

    Attributes:
        source: where its rows are.
        size: how much there is of it.
        origin: what cells must have in common to be compared.
        note: which rows are used, in a sentence.
        texts: the test rows, one in JSON a line.
    """

    source: str
    size: Size
    origin: Mapping[str, Any]
    note: str
    texts: str = field(repr=False)

    @classmethod
    def of(cls, source: str, task: Task, backbone: str, facts: Mapping[str, Any], bounds: Bounds) -> Subject:
        """Note what there is to know of a task.

        Args:
            source: where its rows are.
            task: with all its rows.
            backbone: what `load_backbone` takes.
            facts: what `facts_of` says of it.
            bounds: how much the comparison may use.
        """
        size = _size(task, bounds)
        return cls(source, size, _origin(task, backbone, facts, bounds), _said(task, size), _texts(task, bounds))


def read_tasks(tasks: Sequence[str | Path], options: Mapping[str, Any]) -> dict[str, tuple[str, Task]]:
    """Read every task, and return it with its source by its name.

    Args:
        tasks: packaged names, files or folders.
        options: arguments of `load_task`.

    Raises:
        ConfigError: two tasks of the same name, one called as a folder of ours, or one that cannot be compared.
        DataError: rows that cannot be used.
    """
    found: dict[str, tuple[str, Task]] = {}
    for source in tasks:
        task = load_task(str(source), **options)
        check_task(task)
        if task.name in found or task.name in (WORK, ASIDE):
            why = f"two tasks are called `{task.name}`" if task.name in found else f"a task is called `{task.name}`"
            raise ConfigError(f"{why}, and each has a folder of its name; rename a file or folder of theirs")
        found[task.name] = (wherever(source), task)
    return found


def wherever(source: str | Path) -> str:
    """Return a name, or a path that holds in another working directory too."""
    return str(Path(source).absolute()) if Path(source).exists() else str(source)


def layout_of(
    train: Mapping[str, int],
    methods: Sequence[str] | None,
    seeds: Sequence[int] | None,
    rates: Sequence[float] | None,
    data_rows: Sequence[int] | None,
    *,
    quick: bool,
) -> Layout:
    """Lay out the cells; what is `None` has its default.

    Args:
        train: training rows by task.
        methods: `method` or `method:readout` each.
        seeds: of the main cells.
        rates: that are searched.
        data_rows: training rows of the cells on some of them.
        quick: the defaults are those of a quick comparison.

    Raises:
        ConfigError: something given twice or out of range, or a readout that a method does not offer.
        UnknownNameError: no such method.
    """
    from softprompt.methods import catalogue

    known = catalogue.names()
    arms = arms_of((QUICK if quick else MAIN) if methods is None else methods, catalogue.method, known)
    mine = {arm.method for arm in arms}
    rest = () if quick or methods is not None else tuple(name for name in known if name not in mine)
    few = () if quick else DATA_ROWS
    return Layout(
        tasks=tuple(train),
        train=train,
        arms=arms,
        others=arms_of(rest, catalogue.method, known),
        seeds=tuple((QUICK_SEEDS if quick else SEEDS) if seeds is None else seeds),
        rates=tuple((QUICK_RATES if quick else RATES) if rates is None else rates),
        data_rows=tuple(few if data_rows is None else data_rows),
    )


def facts_of(command: Sequence[str], backbone: str, device: str | None, dtype: str | None) -> dict[str, Any]:
    """Return what the backbone is, from a process of its own, so that its memory is free again for the cells.

    Args:
        command: what starts the process of a cell.
        backbone: what `load_backbone` takes.
        device: where it runs.
        dtype: what it computes in.

    Raises:
        BackboneError, ConfigError, MissingExtraError, UnknownNameError: it cannot be loaded.
    """
    process = OwnProcess(command, {"backbone": backbone, "device": device, "dtype": dtype})
    try:
        end = process.wait()
    finally:
        process.end()
    if end.answer is None:
        raise errors.BackboneError(f"`{backbone}` could not be loaded: {end.why}")
    if "error" in end.answer:
        kind: type[SoftPromptError] = getattr(errors, end.answer["error"])
        raise kind(end.answer["message"])
    return end.answer


def place_of(backbone: str, subjects: Mapping[str, Subject]) -> Path:
    """Return the folder that a comparison has by default: the same backbone, tasks and bounds, the same folder."""
    digest = digest_of({name: subject.origin for name, subject in subjects.items()})
    return runs_dir() / f"compare-{named(Path(backbone).name)}-{digest}"


def _origin(task: Task, backbone: str, facts: Mapping[str, Any], bounds: Bounds) -> dict[str, Any]:
    called = Path(backbone).name if Path(backbone).exists() else backbone
    known = {name: facts[name] for name in ("fingerprint", "dtype", "device")}
    read = {"template": task.template.to_json(), "readout": task.readout.to_json()}
    made = {"softprompt": __version__, "backbone": called}  # another release may train otherwise
    return {**made, **known, "data": task.data_hash, "task": digest_of(read), **asdict(bounds)}


def _size(task: Task, bounds: Bounds) -> Size:
    rows = {split: len(found) for split, found in task.splits.items()}
    letters = statistics.fmean(sum(map(len, row.key)) for row in task.splits["train"][:200])
    train, test = min(rows["train"], bounds.rows), min(rows["test"], bounds.test_rows)
    return Size(train, rows["validation"], test, len(task.template.pattern) / 4 + letters / 4)


def _said(task: Task, size: Size) -> str:
    train, test = len(task.splits["train"]), len(task.splits["test"])
    learned = (
        f"{size.train:,} of {train:,} training rows, drawn by seed"
        if train > size.train
        else f"{train:,} training rows"
    )
    answered = f"{size.test:,} of {test:,} test rows" if test > size.test else f"{test:,} test rows"
    return f"{task.name}: {learned}; {size.validation:,} validation rows; judged on {answered}, the same for all"


def _texts(task: Task, bounds: Bounds) -> str:
    plain = ({"fields": dict(row.fields), "label": row.label} for row in judged(task, bounds.test_rows))
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in plain)

"""`study`: how a result depends on one setting, drawn with what chance alone would do to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.backbones.backbone import Backbone, load_backbone
from softprompt.errors import ConfigError
from softprompt.experiments.folder import ExperimentFolder, digest_of, named
from softprompt.experiments.study_beside import fresh, measure_beside
from softprompt.experiments.study_cells import Measured, judged_rows, measure_cell
from softprompt.experiments.study_grid import KINDS, Cell, Grid, settings_of, task_of
from softprompt.experiments.study_result import StudyResult
from softprompt.experiments.trials import (
    as_in_papers,
    explicit,
    long_enough,
    most_steps,
    plain,
    refuse_several,
    without_test,
)
from softprompt.home import runs_dir
from softprompt.progress import say
from softprompt.tasks.task import Example, Task
from softprompt.training.config import TrainConfig

Loader = Callable[[str], Backbone]


@dataclass(frozen=True)
class Plan:
    """What a study will do.

    Attributes:
        grid: its cells.
        done: those that have ended already.
        rows: how many rows each is judged on.
        split: whose rows these are.
        config: the settings that all cells share, their steps decided.
        folder: where the study lives.
    """

    grid: Grid
    done: Mapping[Cell, Measured]
    rows: int
    split: str
    config: TrainConfig
    folder: Path

    @property
    def seconds(self) -> float | None:
        """An estimate of the time still to train, from the cells that have ended; `None` before the first."""
        known = [cell.seconds for cell in self.done.values() if cell.failed is None]
        return (len(self.grid) - len(self.done)) * sum(known) / len(known) if known else None

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON."""
        cells = [{**vars(cell), "done": cell in self.done} for cell in self.grid]
        about = {"study": self.grid.kind, "judged on": self.split, "rows": self.rows, "folder": str(self.folder)}
        return {**about, "steps": self.steps, "examples": self.examples, "seconds left": self.seconds, "cells": cells}

    @property
    def steps(self) -> int:
        """Optimizer steps of all cells at most."""
        return len(self.grid) * most_steps(self.config)

    @property
    def examples(self) -> int:
        """Rows learned from in all cells at most, each time counted."""
        return self.steps * self.config.batch_size

    def _said(self, cell: Cell) -> str:
        """What varies, where backbone and seed do not say it."""
        if cell.method:
            return f"  {cell.method}"
        return "" if self.grid.kind in ("size", "seeds") else f"  {KINDS[self.grid.kind].varies} {cell.value}"

    def __str__(self) -> str:
        lines = [
            f"{'done' if cell in self.done else 'to do':<6} {cell.backbone}{self._said(cell)}  seed {cell.seed}"
            for cell in self.grid
        ]
        left = "unknown before the first has ended" if self.seconds is None else f"about {self.seconds / 60:.1f} min"
        return "\n".join(
            [
                *lines,
                f"{len(self.grid)} cells, {len(self.done)} done; each {most_steps(self.config)} steps of "
                f"{self.config.batch_size} rows at most: {self.steps:,} steps, {self.examples:,} rows in all",
                f"time left to train: {left}; then each is judged on {self.rows:,} {self.split} rows",
                f"folder: {self.folder}",
            ]
        )


@dataclass(frozen=True)
class Study:
    """A study that can be planned, run, and run again: cells that have ended are not repeated.

    Several processes may run one study; each takes cells that nobody else is at. A cell that failed for want of memory
    or of a library is tried once in every run; one that failed by its own settings is not tried again.

    Attributes:
        grid: its cells.
        task: what is learned, test rows included.
        config: the settings that all cells share.
        split: whose rows the cells are judged on.
        rows: those rows.
        folder: where it lives.
        loaders: how to get each backbone, by name.
        anew: how to get one whose weights may be changed.
        near: the backbones that may have changed under their names since: those in memory, and local folders.
    """

    grid: Grid
    task: Task
    config: TrainConfig
    split: str
    rows: tuple[Example, ...]
    folder: ExperimentFolder
    loaders: Mapping[str, Callable[[], Backbone]]
    anew: Mapping[str, Callable[[], Backbone]]
    near: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        kind: str,
        backbones: Sequence[Backbone | str],
        task: Task,
        *,
        values: Sequence[Any] | None = None,
        seeds: Sequence[int] = (0, 1, 2),
        config: TrainConfig | None = None,
        split: str = "validation",
        rows: int = 1000,
        folder: str | Path | None = None,
        load: Loader = load_backbone,
        beside: Sequence[str] = (),
    ) -> Study:
        """Lay out a study; nothing is loaded or trained yet.

        Args:
            kind: `length`, `init`, `placement`, `size`, `seeds` or `rate`.
            backbones: loaded ones, or their names; each gives a line of the figure, in a study of sizes a point.
            task: what is learned.
            values: of what varies; by default the kind's.
            seeds: of each value.
            config: the settings that all cells share; where they do not say what trains, virtual tokens at the input
                without learned rows, as in the papers.
            split: `validation`, whose rows also chose each prompt's step, or `test`.
            rows: to judge a cell on, at most.
            folder: where the study lives; by default one named after kind, task and settings.
            load: how to load a backbone by name.
            beside: methods that are trained beside soft prompts, such as `full`, each a line; in a study of sizes.

        Raises:
            UnknownNameError: a kind, split, placement or method that does not exist.
            ConfigError: a value out of range or given twice, a setting that varies and is fixed, one that makes more
                of a cell than one plain run, or a split that prompts learn from.
            DataError: the task has no validation rows.
        """
        if not backbones or rows < 1:
            raise ConfigError(f"asked for {len(backbones)} backbones and {rows} rows; a study needs one of each")
        names = [backbone if isinstance(backbone, str) else backbone.name for backbone in backbones]
        grid = Grid.of(kind, names, task, values, seeds, beside)
        _refuse_fixed(kind, config)
        refuse_several(config, "study", timed=False)
        without_test(task)
        judged = judged_rows(task, split, rows)
        shared = as_in_papers(config)
        definition = _definition(kind, task, shared, split, len(judged))
        place = Path(folder) if folder else runs_dir() / f"study-{kind}-{named(task.name.lower())}"
        if folder is None:
            place = place.with_name(f"{place.name}-{digest_of(definition)}")
        there = ExperimentFolder(place)
        given = dict(zip(names, backbones, strict=True))
        loaders = {name: _loader(backbone, load) for name, backbone in given.items()}
        anew = {name: _loader(backbone, load, fresh) for name, backbone in given.items()}
        near = frozenset(name for name, each in given.items() if not isinstance(each, str) or Path(each).exists())
        return cls(grid, task, shared, split, judged, there, loaders, anew, near)

    def plan(self) -> Plan:
        """Return what is to be done, without doing it."""
        known = long_enough(plain(self.config, {}), self.task)
        ended = {cell: measured for cell, measured in self.done().items() if not measured.again}
        return Plan(self.grid, ended, len(self.rows), self.split, known, self.folder.path)

    def run(self) -> StudyResult:
        """Train every cell that has not ended and is nobody else's, and return what there is then.

        Raises:
            ConfigError: the folder holds another study, or cells of another backbone of the same name.
            TrainingError: no cell gave a figure.
            KeyboardInterrupt: stopped; the same call goes on.
            BackboneError, MissingExtraError, UnknownNameError: a backbone cannot be loaded.
        """
        self.folder.begin(_definition(self.grid.kind, self.task, self.config, self.split, len(self.rows)))
        for name in self.grid.backbones:
            self._run_all([cell for cell in self.grid if cell.backbone == name])
        return self.result()

    def result(self) -> StudyResult:
        """What the cells that have ended say; its files are written."""
        return StudyResult.of(self.grid, self.task, self.done(), self.plan().config, self.split, self.folder.path)

    def done(self) -> dict[Cell, Measured]:
        """The cells that have ended, for want of memory or of a library too."""
        found = ((cell, Measured.read(self._file(cell))) for cell in self.grid)
        return {cell: measured for cell, measured in found if measured is not None}

    def _run_all(self, cells: Sequence[Cell]) -> None:
        """Train the cells of one backbone, which is loaded when the first of them needs it."""
        backbone: Backbone | None = None
        if any(cell.backbone in self.near for cell in cells) and self.done().keys() & set(cells):
            backbone = self._loaded(cells)
        for cell in cells:
            with self.folder.held(f"cell-{named(cell.name)}") as mine:
                before = Measured.read(self._file(cell)) if mine else None
                if not mine or (before is not None and not before.again):
                    continue
                if cell.method:  # it may change the weights, and gets its own
                    backbone = None
                    self._run(cell, self.anew[cell.backbone]())
                    continue
                backbone = backbone or self._loaded(cells)
                self._run(cell, backbone)

    def _loaded(self, cells: Sequence[Cell]) -> Backbone:
        """Load the backbone of some cells; those of them that have ended must have been measured on it."""
        backbone = self.loaders[cells[0].backbone]()
        done = self.done()
        for cell in cells:
            if cell in done and not done[cell].is_of(backbone):
                raise ConfigError(
                    f"`{self.folder.path}` holds cell {cell.name}, which was measured on other weights, with another "
                    f"tokenizer or in another dtype than `{cell.backbone}` has now; name another folder, or take this "
                    "one away"
                )
        return backbone

    def _run(self, cell: Cell, backbone: Backbone) -> None:
        kind = self.grid.kind
        say(f"study {kind}, cell {len(self.done()) + 1} of {len(self.grid)}: {cell.name}")
        config = plain(self.config, settings_of(kind, cell))
        task = task_of(kind, cell, self.task)
        measure = measure_beside if cell.method else measure_cell
        measured = measure(cell, backbone, task, config, self.rows, self._file(cell).parent)
        measured.write(self._file(cell))
        news = f"failed: {measured.failed}" if measured.failed else f"accuracy {100 * measured.accuracy:.1f}"
        say(f"study {kind}, {cell.name}: {news}")

    def _file(self, cell: Cell) -> Path:
        return self.folder.path / "cells" / cell.name / "cell.json"


def _loader(
    backbone: Backbone | str, load: Loader, given: Callable[[Backbone], Backbone] = lambda backbone: backbone
) -> Callable[[], Backbone]:
    """How to get a backbone: loaded by its name, or what `given` makes of a loaded one."""
    return lambda: load(backbone) if isinstance(backbone, str) else given(backbone)


def _refuse_fixed(kind: str, config: TrainConfig | None) -> None:
    given = config.model_fields_set if config else set()
    for name in ("seed", KINDS[kind].field):
        if name in given:
            raise ConfigError(f"`{name}` varies in a study of {kind}; give its values to the study, do not fix it")


def _definition(kind: str, task: Task, config: TrainConfig, split: str, rows: int) -> dict[str, Any]:
    """What all cells of a study share; values, seeds and backbones may be added to it later."""
    return {
        "experiment": f"study {kind}",
        "task": {"name": task.name, "data": task.data_hash},
        "template": task.template.to_json(),
        "readout": task.readout.to_json(),
        "settings": explicit(config),
        "judged on": {"split": split, "rows": rows},
    }

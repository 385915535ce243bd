"""What a study says: a point for each value, with its interval and its spread, and the words that go with it."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from softprompt import durable
from softprompt.errors import MissingExtraError, TrainingError
from softprompt.evaluation.figures import Interval
from softprompt.evaluation.tables import percent, percent_interval, table, wrapped
from softprompt.evaluation.tables import points as points_of
from softprompt.experiments.plots import Curve, study_curves
from softprompt.experiments.study_cells import Measured, row_interval
from softprompt.experiments.study_grid import KINDS, Cell, Grid
from softprompt.experiments.trials import most_steps
from softprompt.progress import say
from softprompt.tasks.task import Task
from softprompt.training.config import TrainConfig

FEW_SEEDS = 5
"""Below this many seeds, their spread is a rough figure."""


@dataclass(frozen=True)
class Point:
    """One value of a study on one backbone, over its seeds.

    Attributes:
        backbone: its name.
        value: of what varies.
        method: what was trained; empty: a soft prompt.
        parameters: of the backbone.
        seeds: how many seeds ended with a figure.
        accuracy: mean over the seeds, in [0, 1].
        interval: 95 % of that mean over the rows.
        deviation: standard deviation over the seeds (n - 1); `None` with one seed.
        worst, best: lowest and highest accuracy of a seed.
        loss: mean log-loss in nats.
        seconds: mean time of a training.
    """

    backbone: str
    value: Any
    method: str
    parameters: int
    seeds: int
    accuracy: float
    interval: Interval
    deviation: float | None
    worst: float
    best: float
    loss: float
    seconds: float

    @classmethod
    def of(cls, cells: Sequence[Measured]) -> Point:
        """Summarise the cells of one value; at least one, all with a figure."""
        first, each = cells[0], [cell.accuracy for cell in cells]
        return cls(
            backbone=first.backbone,
            value=first.value,
            method=first.method,
            parameters=first.parameters,
            seeds=len(cells),
            accuracy=statistics.fmean(each),
            interval=Interval(*row_interval(cells)),
            deviation=statistics.stdev(each) if len(each) > 1 else None,
            worst=min(each),
            best=max(each),
            loss=statistics.fmean(cell.loss for cell in cells),
            seconds=statistics.fmean(cell.seconds for cell in cells),
        )


@dataclass(frozen=True)
class StudyResult:
    """What a study says.

    Attributes:
        kind: of the study.
        points: backbone by backbone, values in the order of the grid.
        notes: what the figures are and what they are not, one sentence each.
        folder: where `study.json`, `study.csv`, `study.md` and the pictures are.
        picture: the figure; `None` where nothing can be drawn.
    """

    kind: str
    points: tuple[Point, ...]
    notes: tuple[str, ...]
    folder: Path
    picture: Path | None

    @classmethod
    def of(
        cls, grid: Grid, task: Task, done: Mapping[Cell, Measured], config: TrainConfig, split: str, folder: Path
    ) -> StudyResult:
        """Summarise the cells that have ended, and write the files.

        Args:
            grid: the cells that were asked for.
            task: what was learned, test rows included.
            done: what the cells that have ended gave.
            config: the settings that all cells share.
            split: whose rows they were judged on.
            folder: where the files go.

        Raises:
            TrainingError: no cell gave a figure.
            StorageError: a file cannot be written.
        """
        good = [measured for measured in done.values() if measured.failed is None]
        if not good:
            reason = next((each.failed for each in done.values()), "they are still running in other processes")
            raise TrainingError(f"none of the {len(grid)} cells of the study gave a figure; {reason}")
        points = tuple(Point.of(cells) for cells in _by_value(good))
        notes = (*_verdict(points), *_notes(grid, task, done, config, split, len(good[0].right)))
        made = cls(grid.kind, points, notes, folder, _drawn(grid.kind, task, points, split, folder))
        made.write()
        return made

    def write(self) -> None:
        """Write `study.json`, `study.csv` and `study.md`."""
        durable.write_text(self.folder / "study.json", json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n")
        durable.write_text(self.folder / "study.csv", self.csv())
        durable.write_text(self.folder / "study.md", self.markdown())

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON."""
        return {"study": self.kind, "points": [asdict(point) for point in self.points], "notes": [*self.notes]}

    def csv(self) -> str:
        """Return the points, one a line."""
        stream = io.StringIO()
        rows = [{**asdict(point), "low": point.interval.low, "high": point.interval.high} for point in self.points]
        names = [name for name in rows[0] if name != "interval"]
        writer = csv.DictWriter(stream, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return stream.getvalue()

    def markdown(self) -> str:
        """Return the table and the notes for a page."""
        header, rows = self._table()
        cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
        lines = [" | ".join(row) for row in [header, ["---"] * len(header), *cells]]
        return "\n".join([*(f"| {line} |" for line in lines), "", *(f"- {note}" for note in self.notes)]) + "\n"

    def __str__(self) -> str:
        header, rows = self._table()
        return "\n".join([*table(header, rows), "", *(line for note in self.notes for line in wrapped(note))])

    def _table(self) -> tuple[list[str], list[list[str]]]:
        header = [KINDS[self.kind].varies, "backbone", "accuracy", "95 % over rows", "sd", "seeds: worst-best", "loss"]
        return header, [
            [
                str(point.value if self.kind != "size" else f"{point.parameters:,}"),
                f"{point.backbone}, {point.method}" if point.method else point.backbone,
                percent(point.accuracy),
                percent_interval(point.interval),
                percent(point.deviation),
                f"{point.seeds}: {percent(point.worst)}-{percent(point.best)}",
                f"{point.loss:.3f}",
            ]
            for point in self.points
        ]


def _by_value(cells: Sequence[Measured]) -> list[list[Measured]]:
    found: dict[tuple[str, str, str], list[Measured]] = {}
    for cell in cells:
        found.setdefault((cell.backbone, str(cell.value), cell.method), []).append(cell)
    return list(found.values())


def _verdict(points: Sequence[Point]) -> list[str]:
    """Say for each backbone, or for all in a study of sizes, what the intervals let one say."""
    if any(point.method for point in points):
        return _gaps(points)
    alone = len({point.backbone for point in points}) == len(points)
    groups = [list(points)] if alone else _grouped(points)
    return [_best_of(group) for group in groups if len(group) > 1]


def _gaps(points: Sequence[Point]) -> list[str]:
    """Say how far each method is ahead of soft prompts on each backbone, the smallest first."""
    prompts = {point.backbone: point for point in points if not point.method}
    said = []
    for point in sorted(points, key=lambda point: (point.method, point.parameters)):
        if point.method and point.backbone in prompts:
            prompt = prompts[point.backbone]
            meet = point.interval.high >= prompt.interval.low and prompt.interval.high >= point.interval.low
            said.append(
                f"{point.backbone} ({point.parameters:,} parameters): {point.method} is "
                f"{points_of(point.accuracy - prompt.accuracy)} points from the soft prompt"
                + ("; their intervals meet." if meet else ".")
            )
    return said


def _grouped(points: Sequence[Point]) -> list[list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.backbone, []).append(point)
    return list(found.values())


def _best_of(points: Sequence[Point]) -> str:
    best = max(points, key=lambda point: point.accuracy)
    even = [str(p.value) for p in points if p is not best and p.interval.high >= best.interval.low]
    first = f"{best.backbone}: the highest is {best.value} with {percent(best.accuracy)}"
    if not even:
        return f"{first}; no other value's interval meets its own."
    return f"{first}; as good, because their intervals meet its own: {', '.join(even)}."


def _notes(
    grid: Grid, task: Task, done: Mapping[Cell, Measured], config: TrainConfig, split: str, rows: int
) -> list[str]:
    kind = KINDS[grid.kind]
    used = "took part in no choice yet" if split == "test" else "also chose the step of each prompt: figures flatter"
    notes = [f"Accuracy on {rows:,} {split} rows of {task.name}, which {used}."]
    if split == "test":
        notes.append("A setting chosen by these figures has been chosen on the test rows: report it on others.")
    good = [measured.accuracy for measured in done.values() if measured.failed is None]
    notes.append(_over_all(good) if grid.kind == "seeds" else _about_seeds(len(grid.seeds)))
    with_rows = "" if config.learned_rows is False else " with learned rows where it can have them"
    notes.append(
        f"Every cell trained `{config.parameterization}`{with_rows}, {most_steps(config)} steps of {config.batch_size} "
        f"rows at most, and stopped after {config.patience} validations worse than the best for sure; more steps may "
        "favour other values."
    )
    notes += [_about_method(name, config) for name in grid.beside]
    overlap = len(task.overlap(split))
    if overlap:
        notes.append(f"{overlap:,} rows of {split} stand in rows that training saw, text for text.")
    failed = [measured for measured in done.values() if measured.failed]
    notes += [
        f"Failed: {kind.varies} {each.value}{each.method and f', {each.method}'}, seed {each.seed}: {each.failed}"
        for each in failed
    ]
    if len(done) < len(grid):
        notes.append(f"{len(grid) - len(done)} of {len(grid)} cells have not ended, and are not in these figures.")
    return [*notes, f"After {kind.origin}."]


def _about_method(name: str, config: TrainConfig) -> str:
    return (
        f"`{name}` trained every backbone anew at its own learning rate, until its validation loss stopped improving, "
        f"on {most_steps(config) * config.batch_size:,} rows at most; a search of its rate may help it."
    )


def _over_all(each: Sequence[float]) -> str:
    spread = f", sd {percent(statistics.stdev(each))}" if len(each) > 1 else ""
    return f"Over {len(each)} seeds: mean {percent(statistics.fmean(each))}{spread}, worst {percent(min(each))}."


def _about_seeds(count: int) -> str:
    if count == 1:
        return "One seed each: how much chance alone moves these figures is not known."
    return f"{count} seeds each" + (": a rough figure of their spread." if count < FEW_SEEDS else ".")


def _drawn(kind: str, task: Task, points: Sequence[Point], split: str, folder: Path) -> Path | None:
    varies = KINDS[kind]
    groups = _by_method(points) if kind == "size" else _grouped(points)
    named = {"title": f"{task.name}: {varies.varies}", "axis": varies.varies, "measure": f"accuracy in %, {split} rows"}
    curves = [_curve(kind, group) for group in groups]
    try:
        for suffix in (".svg", ".png"):
            picture = study_curves(curves, folder / f"study{suffix}", log=varies.log, **named)
    except MissingExtraError as error:
        say(f"no picture: {error}")
        return None
    return picture


def _by_method(points: Sequence[Point]) -> list[list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.method, []).append(point)
    return list(found.values())


def _curve(kind: str, points: Sequence[Point]) -> Curve:
    if KINDS[kind].log:  # a line from left to right, whatever order was asked for
        points = sorted(points, key=lambda point: _place(kind, point))
    return Curve(
        (points[0].method or "soft prompt") if kind == "size" else points[0].backbone,
        [_place(kind, point) for point in points],
        [point.accuracy for point in points],
        [(point.interval.low, point.interval.high) for point in points],
        [(point.worst, point.best) for point in points],
    )


def _place(kind: str, point: Point) -> Any:
    if kind == "size":
        return point.parameters
    return point.value if KINDS[kind].log else str(point.value)

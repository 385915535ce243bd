"""The figures of a comparison's report: for each task a line a method, with what it reaches and what it costs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from softprompt.evaluation.figures import Difference, Interval
from softprompt.experiments.compare.outcomes import Outcome
from softprompt.experiments.report.folder import Entry, TaskOutcomes, answers_of
from softprompt.experiments.report.names import OURS, Key
from softprompt.experiments.report.statistics import (
    METRICS,
    Answers,
    Sampled,
    bootstrap_p,
    difference,
    holm,
    mcnemar_p,
    sampled,
)
from softprompt.methods.costs import Forgetting, Speed

RESAMPLES = 2000


class Figure(NamedTuple):
    """One metric of a method on a task.

    Attributes:
        value: mean over the seeds.
        interval: its 95 % bootstrap interval over rows and seeds.
        deviation: standard deviation over the seeds; None with one.
        worst: that of the worst seed.
    """

    value: float
    interval: Interval
    deviation: float | None
    worst: float


@dataclass(frozen=True)
class Against:
    """A method against the soft prompt on the same rows.

    Attributes:
        differences: by metric, the method's figure minus the soft prompt's.
        p: that both are right equally often.
        test: which gave it: `McNemar` or `bootstrap`.
        corrected: p after Holm's correction over the methods of the task.
    """

    differences: Mapping[str, Difference]
    p: float
    test: str
    corrected: float


@dataclass(frozen=True)
class Cost:
    """What a method takes; means over the seeds unless said otherwise.

    Attributes:
        trained: parameters; `share` of the backbone's own.
        kept_bytes: beside the backbone, for the task.
        seconds: of training, without looks at validation rows; None: it does not train.
        whole: seconds of the whole cell, loading and measuring included.
        examples: rows learned from, each time counted.
        peak: of the process, MiB, the highest of the seeds; 0: not measured.
        loaded: MiB before the fit.
        speed, forgetting: of the first seed that has them.
    """

    trained: int
    share: float
    kept_bytes: int
    seconds: float | None
    whole: float
    examples: int
    peak: float
    loaded: float
    speed: Speed | None
    forgetting: Forgetting | None

    @property
    def rate(self) -> float | None:
        """Rows learned from in a second."""
        return self.examples / self.seconds if self.seconds else None


@dataclass(frozen=True)
class Search:
    """What choosing the learning rate took.

    Attributes:
        losses: validation log loss by multiple of the method's own rate; None: that trial failed.
        chosen: the multiple that the main cells took; None: there is none yet.
        seconds: of all trials, whole cells.
        examples: rows learned from in them.
    """

    losses: Mapping[float, float | None]
    chosen: float | None
    seconds: float
    examples: int


class DataPoint(NamedTuple):
    """How a method did with some of the training rows; `rows` 0: all of them."""

    rows: int
    figure: Figure


class Look(NamedTuple):
    """One look at the validation rows during a training."""

    examples: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Line:
    """A method with a readout on a task.

    Attributes:
        key: which.
        why: why there is no figure; empty where there is one.
        seeds: those that gave a figure.
        missing: those that were planned and have not ended.
        failures: of single seeds and of data cells, a sentence each.
        figures: by metric; empty where there is none.
        against: beside the soft prompt; None for itself, and where one of the two is missing.
        cost, search: None where nothing is known.
        data: by training rows, fewest first.
        course: validation during the training of the first seed.
        notes: what else a reader must know.
    """

    key: Key
    why: str = ""
    seeds: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()
    failures: tuple[str, ...] = ()
    figures: Mapping[str, Figure] = field(default_factory=dict)
    against: Against | None = None
    cost: Cost | None = None
    search: Search | None = None
    data: tuple[DataPoint, ...] = ()
    course: tuple[Look, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def accuracy(self) -> Figure:
        """Its accuracy; only where it has figures."""
        return self.figures["accuracy"]


@dataclass(frozen=True)
class TaskFigures:
    """Everything that the report says of a task in numbers.

    Attributes:
        name: of the task.
        labels: in order.
        rows: test rows.
        lines: in the order of the report.
        ours: what is called the soft prompt; None: none was run.
        unlike: what differs between cells that should be alike.
    """

    name: str
    labels: tuple[str, ...]
    rows: int
    lines: tuple[Line, ...]
    ours: Key | None
    unlike: tuple[str, ...] = ()

    @property
    def measured(self) -> tuple[Line, ...]:
        """The lines that have figures."""
        return tuple(line for line in self.lines if line.figures)

    @property
    def reference(self) -> Line | None:
        """The soft prompt's line, where it has figures."""
        return next((line for line in self.measured if line.key == self.ours), None)

    def line(self, key: Key) -> Line | None:
        """Return the line of a method where it has figures."""
        return next((line for line in self.measured if line.key == key), None)

    def best_rival(self) -> Line | None:
        """Return the most accurate of the other lines; of equals the one that keeps fewest bytes."""
        rivals = [line for line in self.measured if line.key != self.ours]
        return max(rivals, key=lambda line: (line.accuracy.value, -kept(line)), default=None)


def kept(line: Line) -> int:
    """Return the bytes that a line keeps; 0 where nothing is known."""
    return line.cost.kept_bytes if line.cost else 0


def the_soft_prompt(tasks: Iterable[TaskOutcomes]) -> Key | None:
    """Return what the whole comparison calls the soft prompt: of those that it ran, the first of `OURS`."""
    ran = {entry.key for task in tasks for entry in task.entries if entry.main}
    return next((key for key in OURS if key in ran), None)


def figures_of(task: TaskOutcomes, ours: Key | None, *, resamples: int = RESAMPLES) -> TaskFigures:
    """Work out all figures of a task.

    Args:
        task: its outcomes.
        ours: what is called the soft prompt.
        resamples: of the bootstrap.
    """
    answers: dict[tuple[Key, int], Answers] = {(e.key, 0): e.answers for e in task.entries if e.main}
    for entry in task.entries:
        for rows in sorted({outcome.cell.rows for outcome in entry.data} - {0}):
            answers[entry.key, rows] = answers_of(o for o in entry.data if o.cell.rows == rows)
    drawn = sampled(task.gold, answers, len(task.labels), resamples=resamples) if answers else {}
    against = _against(task, ours, {key: each for (key, rows), each in drawn.items() if rows == 0}, answers)
    lines = tuple(
        _line(entry, {rows: each for (key, rows), each in drawn.items() if key == entry.key}, against.get(entry.key))
        for entry in task.entries
    )
    return TaskFigures(task.name, task.labels, len(task.gold), lines, ours, task.unlike)


def _against(
    task: TaskOutcomes,
    ours: Key | None,
    drawn: Mapping[Key, Sampled],
    answers: Mapping[tuple[Key, int], Answers],
) -> dict[Key, Against]:
    if ours is None or ours not in drawn:
        return {}
    others = [key for key in drawn if key != ours]
    exact = {key: mcnemar_p(task.gold, answers[key, 0], answers[ours, 0]) for key in others}
    p_values = {key: _known(exact[key], bootstrap_p(drawn[key], drawn[ours], "accuracy")) for key in others}
    corrected = holm(p_values)
    return {
        key: Against(
            {metric: difference(drawn[key], drawn[ours], metric) for metric in METRICS},
            p_values[key],
            "bootstrap" if exact[key] is None else "McNemar",
            corrected[key],
        )
        for key in others
    }


def _known(exact: float | None, otherwise: float) -> float:
    return otherwise if exact is None else exact


def _line(entry: Entry, drawn: Mapping[int, Sampled], against: Against | None) -> Line:
    data = [DataPoint(rows, _figure(each, "accuracy")) for rows, each in sorted(drawn.items()) if rows]
    whole = drawn.get(0)
    if whole is not None and data:
        data.append(DataPoint(0, _figure(whole, "accuracy")))
    return Line(
        entry.key,
        entry.why,
        tuple(outcome.cell.seed for outcome in entry.main),
        entry.missing if entry.main else (),
        tuple(_failure(outcome) for outcome in entry.failed) if entry.main else (),
        {metric: _figure(whole, metric) for metric in METRICS} if whole is not None else {},
        against,
        _cost(entry.main) if entry.main else None,
        _search(entry),
        tuple(data),
        _course(entry.main[0]) if entry.main else (),
        tuple(dict.fromkeys(note for outcome in entry.main for note in outcome.notes)),
    )


def _figure(each: Sampled, metric: str) -> Figure:
    return Figure(each.value(metric), each.interval(metric), each.deviation(metric), each.worst(metric))


def _failure(outcome: Outcome) -> str:
    cell = outcome.cell
    what = f"with {cell.rows:,} training rows, seed {cell.seed}" if cell.role == "data" else f"seed {cell.seed}"
    return f"{what} failed: {outcome.failed}"


def _cost(outcomes: Sequence[Outcome]) -> Cost:
    first = outcomes[0]
    trains = any(outcome.course.get("examples") for outcome in outcomes)
    return Cost(
        first.trained,
        first.share,
        round(statistics.fmean(outcome.kept_bytes for outcome in outcomes)),
        statistics.fmean(float(o.course.get("seconds", 0.0)) for o in outcomes) if trains else None,
        statistics.fmean(outcome.seconds for outcome in outcomes),
        round(statistics.fmean(int(o.course.get("examples", 0)) for o in outcomes)),
        max(outcome.peak for outcome in outcomes),
        max(outcome.loaded for outcome in outcomes),
        next((outcome.speed for outcome in outcomes if outcome.speed), None),
        next((outcome.forgetting for outcome in outcomes if outcome.forgetting), None),
    )


def _search(entry: Entry) -> Search | None:
    if not entry.search:
        return None
    losses = {o.cell.rate: None if o.failed is not None else o.validation_loss for o in entry.search}
    return Search(
        losses,
        entry.main[0].cell.rate if entry.main else None,
        sum(outcome.seconds for outcome in entry.search),
        sum(int(outcome.course.get("examples", 0)) for outcome in entry.search),
    )


def _course(outcome: Outcome) -> tuple[Look, ...]:
    points: Iterable[Mapping[str, float]] = outcome.course.get("points", ())
    return tuple(Look(int(point["examples"]), float(point["loss"]), float(point["accuracy"])) for point in points)

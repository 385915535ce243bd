"""Which pictures a comparison's page shows of a task, and what stands in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from softprompt.experiments.report.disagreement import Disagreement
from softprompt.experiments.report.figures import DataPoint, Line, TaskFigures, kept
from softprompt.experiments.report.names import Key, amount_of_bytes, amount_of_time
from softprompt.experiments.report.plots import Mark, Trace, confusion_picture, cost_picture, curve_picture
from softprompt.experiments.report.svg import Picture

LINES = 7
"""Methods in a picture of curves at most: the soft prompt and the most accurate others."""
_BYTES = tuple(10.0**power for power in range(14))
_TIMES = (0.1, 1.0, 10.0, 60.0, 300.0, 1200.0, 3600.0, 14400.0, 86400.0)
LABELS = 12
"""Labels in a picture of confusion at most: those of most wrong answers."""


def pictures(number: int, task: TaskFigures, found: Disagreement) -> tuple[Picture, ...]:
    """Draw a task: accuracy against bytes, time and data, validation during the training, and confusion.

    Args:
        number: of the task, for the pictures' names.
        task: its figures; pictures that have nothing to show are left out.
        found: the soft prompt and its best rival, row by row.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if not task.measured:
        return ()
    made = [
        _against_cost(f"task{number}-bytes", task, "bytes kept a task", kept, amount_of_bytes, _BYTES),
        _against_cost(f"task{number}-time", task, "time of training", _seconds, amount_of_time, _TIMES),
        _data(f"task{number}-data", task),
        _courses(f"task{number}-course", task, "accuracy"),
        _courses(f"task{number}-loss", task, "loss"),
        _confusion(f"task{number}-confusion", task, found),
    ]
    return tuple(picture for picture in made if picture is not None)


def _seconds(line: Line) -> float:
    return line.cost.seconds or 0.0 if line.cost else 0.0


def _against_cost(
    name: str,
    task: TaskFigures,
    axis: str,
    cost: Callable[[Line], float],
    write: Callable[[float], str],
    ticks: Sequence[float],
) -> Picture:
    marks = [
        Mark(
            line.key.title,
            line.key.family,
            line.key == task.ours,
            cost(line),
            *(100 * each for each in (line.accuracy.value, *line.accuracy.interval)),
        )
        for line in task.measured
    ]
    return cost_picture(name, f"{task.name}: accuracy against {axis}", axis, marks, write, ticks)


def _chosen(task: TaskFigures, lines: Sequence[Line]) -> list[Line]:
    """The soft prompt and the most accurate others."""
    ranked = sorted(lines, key=lambda line: (line.key != task.ours, -line.accuracy.value))
    return ranked[:LINES]


def _data(name: str, task: TaskFigures) -> Picture | None:
    lines = _chosen(task, [line for line in task.measured if len(line.data) > 1])
    if not lines:
        return None
    largest = max(point.rows for line in lines for point in line.data)
    everything = largest * 4  # how many all are is not in the outcomes: one more step of the usual grid
    traces = [
        Trace(
            line.key.title,
            line.key.family,
            line.key == task.ours,
            [point.rows or everything for point in _by_rows(line)],
            [100 * point.figure.value for point in _by_rows(line)],
            [(100 * p.figure.interval.low, 100 * p.figure.interval.high) for p in _by_rows(line)],
        )
        for line in lines
    ]

    def write(rows: float) -> str:
        return "all" if rows == everything else f"{rows:,.0f}"

    return curve_picture(
        name, f"{task.name}: accuracy against training rows", "training rows", "accuracy in %", traces, write
    )


def _by_rows(line: Line) -> list[DataPoint]:
    return sorted(line.data, key=lambda point: (point.rows == 0, point.rows))


def _courses(name: str, task: TaskFigures, measure: str) -> Picture | None:
    lines = _chosen(task, [line for line in task.measured if sum(look.examples > 0 for look in line.course) > 1])
    if not lines:
        return None
    traces = []
    for line in lines:
        looks = [look for look in line.course if look.examples > 0]  # the axis is logarithmic
        values = [100 * look.accuracy if measure == "accuracy" else look.loss for look in looks]
        places = [look.examples for look in looks]
        traces.append(Trace(line.key.title, line.key.family, line.key == task.ours, places, values))
    said = "validation accuracy in %" if measure == "accuracy" else "validation log loss in nats"
    title = f"{task.name}: {said.split(' in ', maxsplit=1)[0]} while training, first seed"
    return curve_picture(name, title, "rows learned from", said, traces, lambda rows: f"{rows:,.0f}")


def _confusion(name: str, task: TaskFigures, found: Disagreement) -> Picture | None:
    if not found.confusion:
        return None
    chosen = _most_wrong([*found.confusion.values()], len(task.labels))
    labels = [task.labels[place] for place in chosen]
    tables = [
        (key.title, key.family, [[counts[row][column] for column in chosen] for row in chosen])
        for key, counts in found.confusion.items()
    ]
    some = f", the {len(chosen)} of {len(task.labels)} labels with most wrong answers" if _cut(task) else ""
    both = f"{_title(task.ours)} and {_title(found.rival)}"
    return confusion_picture(name, f"{task.name}: confusion of {both}{some}", labels, tables)


def _cut(task: TaskFigures) -> bool:
    return len(task.labels) > LABELS


def _title(key: Key | None) -> str:
    return key.title if key else ""


def _most_wrong(tables: Sequence[Sequence[Sequence[int]]], classes: int) -> list[int]:
    """Places of the labels with most wrong answers, in the order of the labels."""
    wrong = [
        sum(counts[i][j] + counts[j][i] for counts in tables for j in range(classes) if j != i) for i in range(classes)
    ]
    return sorted(sorted(range(classes), key=lambda place: -wrong[place])[:LABELS])

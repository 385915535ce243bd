"""The tables of a comparison's report, as text in cells: the same for the page and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from softprompt.evaluation.figures import Difference
from softprompt.evaluation.tables import percent, points
from softprompt.experiments.report.disagreement import Disagreement, ShownRow
from softprompt.experiments.report.figures import Cost, Figure, Line, TaskFigures
from softprompt.experiments.report.names import (
    Key,
    amount_of_bytes,
    amount_of_memory,
    amount_of_time,
    figure,
)

NOT_KNOWN = "–"
READOUTS = {"words": "label words", "rows": "learned rows"}
SIGNS = {"better": "▲", "even": "=", "worse": "▼"}


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        head: what it is about; one or two cells.
        cells: its figures; where `why` is said, none.
        why: why there are none.
        ours: it is the soft prompt's.
    """

    head: tuple[str, ...]
    cells: tuple[str, ...] = ()
    why: str = ""
    ours: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what it holds.
        heads: names of the columns that say what a row is about.
        columns: names of the others.
        rows: at least one.
        note: what the signs mean.
        prose: its cells are text, not figures.
    """

    caption: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""
    prose: bool = False


def overview(tasks: Sequence[TaskFigures]) -> Table:
    """Return the accuracy of every method on every task."""
    keys = sorted({line.key for task in tasks for line in task.lines}, key=lambda key: key.order)
    lines = {(task.name, line.key): line for task in tasks for line in task.lines}
    ours = next((task.ours for task in tasks if task.ours), None)
    rows = tuple(
        Row(
            _head(key),
            tuple(_of_task(lines.get((task.name, key))) for task in tasks)
            + _kept(lines.get((t.name, key)) for t in tasks),
            ours=key == ours,
        )
        for key in keys
    )
    return Table(
        "Accuracy in %, on test rows that took part in no choice",
        _HEADS,
        (*(task.name for task in tasks), "bytes kept a task", "training a task"),
        rows,
        "▲ more accurate than the soft prompt, ▼ less, = the paired 95 % interval of the difference includes 0. Bytes "
        "and time of training: the highest of the tasks, without the search.",
    )


_HEADS = ("method", "readout")


def _head(key: Key) -> tuple[str, str]:
    return Key(key.method).title, READOUTS.get(key.readout, key.readout or NOT_KNOWN)


def _of_task(line: Line | None) -> str:
    if line is None:
        return NOT_KNOWN
    if not line.figures:
        return line.why.split(":")[0]
    sign = f" {SIGNS[line.against.differences['accuracy'].outcome]}" if line.against else ""
    return f"{percent(line.accuracy.value)}{sign}"


def _kept(lines: Iterable[Line | None]) -> tuple[str, str]:
    costs = [line.cost for line in lines if line is not None and line.cost is not None]
    if not costs:
        return NOT_KNOWN, NOT_KNOWN
    seconds = [cost.seconds for cost in costs if cost.seconds is not None]
    return amount_of_bytes(max(cost.kept_bytes for cost in costs)), amount_of_time(max(seconds)) if seconds else "none"


def quality(task: TaskFigures) -> Table:
    """Return every metric of every method of a task, and the paired test against the soft prompt."""
    beside = f"points to {task.ours.title}" if task.ours else "points to the soft prompt"
    columns = (
        "seeds", "accuracy %", "sd", "worst", beside, "p", "p (Holm)", "macro-F1 %", "MCC", "log loss", "ECE %",
    )  # fmt: skip
    return Table(
        f"{task.name}: figures on {task.rows:,} test rows",
        _HEADS,
        columns,
        tuple(_row(task, line, _quality) for line in task.lines),
        "In brackets: 95 % bootstrap interval over the rows, which are drawn together for all methods, and over the "
        "seeds where there are several. "
        "sd and worst: of the accuracy over the seeds. p: that the two are right equally often, by McNemar's exact "
        "test (M) where both have one seed, else by the paired bootstrap (B); Holm: corrected for all methods of the "
        "task. Log loss in nats, a row at least at the probability 1e-12; ECE over 15 bins.",
    )


def _row(task: TaskFigures, line: Line, cells: Callable[[Line], tuple[str, ...]]) -> Row:
    head, ours = _head(line.key), line.key == task.ours
    return Row(head, cells(line), ours=ours) if line.figures else Row(head, why=line.why, ours=ours)


def _quality(line: Line) -> tuple[str, ...]:
    accuracy = line.accuracy
    missing = f" of {len(line.seeds) + len(line.missing)}" if line.missing else ""
    return (
        f"{len(line.seeds)}{missing}",
        _percent(accuracy),
        percent(accuracy.deviation) if accuracy.deviation is not None else NOT_KNOWN,
        percent(accuracy.worst),
        *_against(line),
        _percent(line.figures["macro_f1"]),
        _number(line.figures["mcc"]),
        _number(line.figures["log_loss"]),
        _percent(line.figures["ece"]),
    )


def _against(line: Line) -> tuple[str, str, str]:
    if line.against is None:
        return NOT_KNOWN, NOT_KNOWN, NOT_KNOWN
    found = line.against
    return _points(found.differences["accuracy"]), f"{_p(found.p)} {found.test[0].upper()}", _p(found.corrected)


def _percent(each: Figure) -> str:
    return f"{percent(each.value)} ({percent(each.interval.low)}–{percent(each.interval.high)})"


def _number(each: Figure) -> str:
    return f"{each.value:.3f} ({each.interval.low:.3f}–{each.interval.high:.3f})"


def _points(gap: Difference) -> str:
    return f"{points(gap.value)} ({points(gap.interval.low)} to {points(gap.interval.high)})"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def training_cost(task: TaskFigures) -> Table:
    """Return what each method of a task takes to train and to keep."""
    columns = (
        "trained parameters", "share", "bytes kept", "training", "whole cell", "rows learned from", "rows/s",
        "peak memory", "before the fit",
    )  # fmt: skip
    return Table(
        f"{task.name}: what training takes",
        _HEADS,
        columns,
        tuple(_row(task, line, _training) for line in task.lines if line.figures),
        "Means over the seeds, memory the highest, of the whole process; training without looks at validation rows; "
        "rows each time counted. The search for a rate is not in these figures: see its own table.",
    )


def _training(line: Line) -> tuple[str, ...]:
    cost = line.cost
    if cost is None:
        return ()
    return (
        f"{cost.trained:,}",
        f"{100 * cost.share:.3g} %",
        amount_of_bytes(cost.kept_bytes),
        _known(cost.seconds, amount_of_time),
        amount_of_time(cost.whole),
        f"{cost.examples:,}" if cost.examples else NOT_KNOWN,
        _known(cost.rate, figure),
        _known(cost.peak or None, amount_of_memory),
        _known(cost.loaded or None, amount_of_memory),
    )


def _known(value: float | None, write: Callable[[float], str]) -> str:
    return NOT_KNOWN if value is None else write(value)


def use(task: TaskFigures) -> Table | None:
    """Return what answering takes, and what the model has forgotten; None where nothing was measured."""
    lines = [line for line in task.measured if line.cost and (line.cost.speed or line.cost.forgetting)]
    columns = ("latency", "rows/s alone", "rows/s, 10 tasks mixed", "switch", "perplexity before", "off", "on")
    if not lines:
        return None
    return Table(
        f"{task.name}: what answering takes, and what is forgotten",
        _HEADS,
        columns,
        tuple(_row(task, line, lambda line: _use(line.cost)) for line in lines),
        "Medians, first seed. Latency: one row that comes alone. Switch: from one task to the next. Perplexity of the "
        "backbone on other text: before the fit, and after it with the adaptation off and on.",
    )


def _use(cost: Cost | None) -> tuple[str, ...]:
    speed, lost = (cost.speed, cost.forgetting) if cost else (None, None)
    return (
        f"{figure(speed.latency)} ms" if speed else NOT_KNOWN,
        figure(speed.rows) if speed else NOT_KNOWN,
        _known(speed.mixed if speed else None, figure),
        f"{figure(speed.switch)} ms" if speed else NOT_KNOWN,
        *((f"{each:.2f}" for each in (lost.before, lost.off, lost.on)) if lost else (NOT_KNOWN,) * 3),
    )


def search(task: TaskFigures) -> Table | None:
    """Return what the search for a learning rate found and took; None where there was none."""
    lines = [line for line in task.lines if line.search]
    if not lines:
        return None
    rates = sorted({rate for line in lines if line.search for rate in line.search.losses})
    return Table(
        f"{task.name}: the search for a learning rate",
        _HEADS,
        (*(f"× {rate:g}" for rate in rates), "time", "rows learned from"),
        tuple(Row(_head(line.key), _searched(line, rates), ours=line.key == task.ours) for line in lines),
        "Validation log loss in nats after a short training, by multiple of the method's own rate; ✓ the one that "
        "the main cells took.",
    )


def _searched(line: Line, rates: Sequence[float]) -> tuple[str, ...]:
    found = line.search
    if found is None:
        return ()
    losses = []
    for rate in rates:
        loss = found.losses.get(rate)
        shown = NOT_KNOWN if rate not in found.losses else "failed" if loss is None else f"{loss:.3f}"
        losses.append(f"{shown} ✓" if rate == found.chosen and rate in found.losses else shown)
    return (*losses, amount_of_time(found.seconds), f"{found.examples:,}")


def data_efficiency(task: TaskFigures) -> Table | None:
    """Return the accuracy by number of training rows; None where that was not asked."""
    lines = [line for line in task.measured if len(line.data) > 1]
    if not lines:
        return None
    sizes = sorted({point.rows for line in lines for point in line.data}, key=lambda rows: (rows == 0, rows))
    rows = []
    for line in lines:
        by_size = {point.rows: point.figure for point in line.data}
        cells = tuple(_percent(by_size[size]) if size in by_size else NOT_KNOWN for size in sizes)
        rows.append(Row(_head(line.key), cells, ours=line.key == task.ours))
    columns = tuple("all rows" if size == 0 else f"{size:,} rows" for size in sizes)
    return Table(f"{task.name}: accuracy in % by number of training rows", _HEADS, columns, tuple(rows))


def row_counts(task: TaskFigures, found: Disagreement) -> Table | None:
    """Return on how many rows each method and the soft prompt disagree; None where there is nothing to count."""
    if not found.counts:
        return None
    rows = tuple(
        Row(_head(each.other), tuple(f"{count:,}" for count in (each.both, each.ours, each.theirs, each.neither)))
        for each in found.counts
    )
    note = "By the first seed that both have."
    ours = task.ours.title if task.ours else "the soft prompt"
    return Table(
        f"{task.name}: rows that {ours} and each method have right",
        _HEADS,
        ("both", f"only {ours}", "only the method", "neither"),
        rows,
        note,
    )


def shown_rows(title: str, rows: Iterable[ShownRow], ours: str, rival: str) -> Table | None:
    """Return rows that one of two methods has right and the other wrong; None where there are none."""
    shown = list(rows)
    if not shown:
        return None
    texts = any(row.text for row in shown)
    return Table(
        title,
        ("row",),
        (*(["text"] if texts else []), "right", f"{ours} says", f"{rival} says"),
        tuple(
            Row((str(row.place + 1),), (*([row.text] if texts else []), row.gold, row.ours, row.theirs))
            for row in shown
        ),
        prose=True,
    )

"""Pictures of a comparison, for its page: accuracy against what it costs, curves, and confusion."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from softprompt.evaluation.tables import shortened
from softprompt.experiments.plots import require_matplotlib
from softprompt.experiments.report.plot_labels import CHARACTER, Box, Place, beside_points, spread
from softprompt.experiments.report.svg import FAMILIES, GRID, INK, Picture, placed

WIDTH, HEIGHT, FONT = 432.0, 300.0, 9.0
"""Of a picture and its text, in points."""
SHAPES = {"free": "X", "probe": "s", "prompt": "o", "adapter": "^", "weights": "P", "other": "v"}
KINDS = {
    "free": "untrained", "probe": "probe", "prompt": "prompt", "adapter": "adapter", "weights": "weights",
    "other": "other",
}  # fmt: skip
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
BELOW = 25.0
"""Points below the best at which a picture ends, so that what matters is not pressed together."""


class Mark(NamedTuple):
    """A method in a picture of costs.

    Attributes:
        name: beside the mark.
        family: of the method.
        ours: it is the soft prompt.
        cost: on the horizontal axis; 0 and more.
        value, low, high: accuracy in % and its interval.
    """

    name: str
    family: str
    ours: bool
    cost: float
    value: float
    low: float
    high: float


class Trace(NamedTuple):
    """A method in a picture of curves; `spans` are the intervals of its values, where there are any."""

    name: str
    family: str
    ours: bool
    places: Sequence[float]
    values: Sequence[float]
    spans: Sequence[tuple[float, float]] = ()


def cost_picture(
    name: str, title: str, axis: str, marks: Sequence[Mark], write: Callable[[float], str], ticks: Sequence[float]
) -> Picture:
    """Draw accuracy against a cost, equal ratios equally far apart, each method with its name and its interval.

    Args:
        name: of the picture.
        title: what stands above it.
        axis: what the cost is.
        marks: at least one.
        write: writes a cost.
        ticks: costs that the axis may name.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    best = max(mark.value for mark in marks)
    shown = [mark for mark in marks if mark.value >= best - BELOW]
    hidden = [mark for mark in marks if mark.value < best - BELOW]
    with _picture(name) as (figure, kept):
        axes = _axes(figure, (46, 40, WIDTH - 58, HEIGHT - 66))
        costs = _cost_axis(axes, shown, write, ticks)
        for mark, cost in zip(shown, costs, strict=True):
            _draw_mark(axes, mark, cost)
        axes.margins(y=0.08)
        _finish(axes, axis, "accuracy in %")
        _name_marks(figure, axes, shown, costs)
        _families(figure, shown)
    alt = "; ".join(f"{mark.name}: {mark.value:.1f} % at {write(mark.cost)}" for mark in marks)
    below = ", ".join(f"{mark.name} ({mark.value:.1f} %)" for mark in hidden)
    note = f"Bars: 95 % over rows. Below the picture: {below}." if hidden else "Bars: 95 % over rows."
    return Picture(name, title, f"{title}. {alt}.", placed(kept[0], name, title, alt), note)


def curve_picture(
    name: str, title: str, axis: str, measure: str, traces: Sequence[Trace], write: Callable[[float], str]
) -> Picture:
    """Draw a measure against something that grows, a line a method, its name at the line's end.

    Args:
        name: of the picture.
        title: what stands above it.
        axis: what grows; its places are above 0.
        measure: what is measured.
        traces: at least one, each with a place.
        write: writes a place.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    longest = max(len(trace.name) for trace in traces)
    room = min(150.0, CHARACTER * FONT * longest) + 20
    with _picture(name) as (figure, kept):
        axes = _axes(figure, (46, 40, WIDTH - 52 - room, HEIGHT - 56))
        styles: dict[str, int] = {}
        for trace in traces:
            style = DASHES[styles.setdefault(trace.family, 0) % len(DASHES)]
            styles[trace.family] += 1
            _draw_trace(axes, trace, style)
        _ticks(axes, sorted({place for trace in traces for place in trace.places}), write)
        _finish(axes, axis, measure)
        _name_traces(figure, axes, traces)
    each = (f"{t.name}: {t.values[0]:.3g} to {t.values[-1]:.3g}" for t in traces)
    alt = f"{measure} by {axis}, first and last. {'; '.join(each)}"
    banded = next((trace.name for trace in traces if trace.spans and trace.ours), None)
    note = f"Band: 95 % over rows, of {banded}." if banded else ""
    return Picture(name, title, f"{title}. {alt}.", placed(kept[0], name, title, alt), note)


def confusion_picture(
    name: str, title: str, labels: Sequence[str], tables: Sequence[tuple[str, str, Sequence[Sequence[int]]]]
) -> Picture:
    """Draw the counts by right and predicted label of some methods side by side, a row's share as its shade.

    Args:
        name: of the picture.
        title: what stands above it.
        labels: of rows and columns, in order.
        tables: of each method its name, its family and its counts [C, C].

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    short = [_both_ends(label) for label in labels]
    longest = max(len(label) for label in short)
    room = CHARACTER * FONT * longest + 12
    cell = max(15.0, min(34.0, (880 - 2 * room) / 2 / len(labels)))
    side = cell * len(labels)
    width, height = len(tables) * (side + 24) + room + 14, side + room * 0.75 + 52
    with _picture(name, width, height) as (figure, kept):
        for place, (method, family, counts) in enumerate(tables):
            axes = _axes(figure, (room + 14 + place * (side + 24), room * 0.75 + 26, side, side))
            _draw_confusion(axes, counts, short, FAMILIES[family], first=place == 0)
            axes.set_title(method, fontsize=FONT + 0.5, color=INK, loc="left")
            axes.set_xlabel("predicted", fontsize=FONT, color=INK)
    told = (f"{method}: {_most_confused(labels, counts)}" for method, _, counts in tables)
    alt = "; ".join(told)
    return Picture(name, title, f"{title}. {alt}.", placed(kept[0], name, title, alt))


def _both_ends(label: str) -> str:
    """Cut a long label in its middle: labels of many tasks begin alike."""
    line = shortened(label, 200)
    return line if len(line) <= 18 else f"{line[:8]}…{line[-9:]}"


def _most_confused(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    right = sum(row[place] for place, row in enumerate(counts))
    wrong = [(row[j], i, j) for i, row in enumerate(counts) for j in range(len(row)) if i != j and row[j]]
    said = f"{right} of {sum(map(sum, counts))} rows right"
    if not wrong:
        return said
    most, gold, predicted = max(wrong, key=lambda each: (each[0], -each[1], -each[2]))
    return f"{said}, most often wrong with {labels[gold]} taken for {labels[predicted]} ({most})"


@contextmanager
def _picture(name: str, width: float = WIDTH, height: float = HEIGHT) -> Any:
    """An empty figure; what was drawn by the end of the block is the first of the list that comes with it."""
    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    kept: list[str] = []
    settings = {"svg.hashsalt": name, "svg.fonttype": "none", "font.family": "sans-serif", "text.parse_math": False}
    with rc_context(settings):
        made: Any = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")
        FigureCanvasSVG(made)
        yield made, kept
        stream = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        made.savefig(stream, format="svg", metadata=nothing, transparent=True)
        kept.append(stream.getvalue())


def _axes(figure: Any, box: tuple[float, float, float, float]) -> Any:
    """Axes at a place of the figure: left, bottom, width, height in points."""
    width, height = figure.get_size_inches() * 72
    return figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height), facecolor="none")


def _finish(axes: Any, axis: str, measure: str) -> None:
    axes.set_xlabel(axis, fontsize=FONT, color=INK)
    axes.set_ylabel(measure, fontsize=FONT, color=INK)
    axes.tick_params(colors=INK, labelsize=FONT - 0.5, length=3, which="major")
    axes.tick_params(length=0, which="minor")
    axes.grid(visible=True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)


def _cost_axis(axes: Any, marks: Sequence[Mark], write: Callable[[float], str], known: Sequence[float]) -> list[float]:
    """A logarithmic axis that has a place for nothing; return where each mark stands on it."""
    some = sorted(mark.cost for mark in marks if mark.cost > 0) or [1.0]
    nothing = some[0] / 6
    costs = [mark.cost or nothing for mark in marks]
    axes.set_xscale("log")
    free = any(not mark.cost for mark in marks)
    low, high = (nothing if free else some[0]), some[-1]
    room = max((high / low) ** 0.06, 1.3)
    axes.set_xlim(low / room, high * room)
    ticks = [tick for tick in known if some[0] / room <= tick <= high * room]
    ticks = ticks[:: 1 + len(ticks) // 6] if len(ticks) > 1 else sorted({some[0], high})
    _name_ticks(axes, ([nothing] if free else []) + ticks, (["none"] if free else []) + [write(t) for t in ticks])
    return costs


def _ticks(axes: Any, places: Sequence[float], write: Callable[[float], str]) -> None:
    """A logarithmic axis that names its places where they are few, else powers of ten."""
    axes.set_xscale("log")
    powers = [10.0**power for power in range(-3, 13) if places[0] <= 10.0**power <= places[-1]]
    ticks = list(places) if len(places) <= 5 else powers if len(powers) > 1 else [places[0], places[-1]]
    _name_ticks(axes, ticks, [write(tick) for tick in ticks])


def _name_ticks(axes: Any, ticks: Sequence[float], names: Sequence[str]) -> None:
    from matplotlib.ticker import NullFormatter, NullLocator

    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(list(ticks), list(names))


def _draw_mark(axes: Any, mark: Mark, cost: float) -> None:
    colour = FAMILIES[mark.family]
    axes.vlines(cost, mark.low, mark.high, color=colour, alpha=0.55, linewidth=1.2)
    size = 9 if mark.ours else 6
    edge = {"markeredgecolor": INK if mark.ours else colour, "markeredgewidth": 1.4 if mark.ours else 0.5}
    axes.plot([cost], [mark.value], SHAPES[mark.family], color=colour, markersize=size, **edge)


def _name_marks(figure: Any, axes: Any, marks: Sequence[Mark], costs: Sequence[float]) -> None:
    axes.get_xlim(), axes.get_ylim()  # limits are worked out when they are asked for, and places need them
    order = sorted(range(len(marks)), key=lambda place: (not marks[place].ours, -marks[place].value))
    points = [tuple(axes.transData.transform((costs[place], marks[place].value))) for place in order]
    box = axes.get_window_extent()
    frame = Box(box.x0 + 2, box.y0 + 1, WIDTH - 2, box.y1 + 8)
    widths = [CHARACTER * FONT * len(marks[place].name) * (1.2 if marks[place].ours else 1) for place in order]
    named = beside_points(
        points, widths, frame, FONT, [_bar(axes, mark, c) for mark, c in zip(marks, costs, strict=True)]
    )
    for place, point, found, width in zip(order, points, named, widths, strict=True):
        if found is None:
            continue
        if found.led:
            _lead(figure, point, _nearest(point, found, width))
        _write(figure, found.x, found.y, marks[place].name, bold=marks[place].ours)


def _nearest(point: tuple[float, float], name: Place, width: float) -> tuple[float, float]:
    """Where a line from a point meets its name: at an end of it, or above or below."""
    x = min(max(point[0], name.x - 1), name.x + width + 1)
    beside = x != point[0]
    return x, name.y + (0 if beside else FONT * 0.6 if point[1] > name.y else -FONT * 0.6)


def _bar(axes: Any, mark: Mark, cost: float) -> Box:
    (x, low), (_, high) = (axes.transData.transform((cost, end)) for end in (mark.low, mark.high))
    return Box(x - 1, low, x + 1, high)


def _lead(figure: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    from matplotlib.lines import Line2D

    across, up = figure.get_size_inches() * 72
    xs, ys = [start[0] / across, end[0] / across], [start[1] / up, end[1] / up]
    figure.add_artist(Line2D(xs, ys, color=INK, alpha=0.45, linewidth=0.6))


def _write(figure: Any, x: float, y: float, text: str, *, bold: bool) -> None:
    across, up = figure.get_size_inches() * 72
    weight = "bold" if bold else "normal"
    figure.text(x / across, y / up, text, fontsize=FONT, color=INK, va="center_baseline", fontweight=weight)


def _families(figure: Any, marks: Iterable[Mark]) -> None:
    """Name the kinds of methods that there are above the picture."""
    from matplotlib.lines import Line2D

    there = {mark.family for mark in marks}
    known = [family for family in FAMILIES if family in there]
    handles = [Line2D([], [], color=FAMILIES[f], marker=SHAPES[f], linestyle="none", markersize=5.5) for f in known]
    figure.legend(
        handles, [KINDS[family] for family in known], loc="upper right", ncols=len(known), frameon=False,
        fontsize=FONT - 0.5, labelcolor=INK, handletextpad=0.1, columnspacing=1.2, borderaxespad=0.2,
    )  # fmt: skip


def _draw_trace(axes: Any, trace: Trace, style: Any) -> None:
    colour, width = FAMILIES[trace.family], 2.2 if trace.ours else 1.3
    axes.plot(
        trace.places, trace.values, linestyle=style, color=colour, linewidth=width, marker=SHAPES[trace.family],
        markersize=4.5 if len(trace.places) <= 8 else 2.5,
    )  # fmt: skip
    if trace.spans and trace.ours:
        low, high = zip(*trace.spans, strict=True)
        axes.fill_between(trace.places, low, high, color=colour, alpha=0.15, linewidth=0)


def _name_traces(figure: Any, axes: Any, traces: Sequence[Trace]) -> None:
    axes.get_xlim(), axes.get_ylim()
    ends = [tuple(axes.transData.transform((trace.places[-1], trace.values[-1]))) for trace in traces]
    box = axes.get_window_extent()
    heights = spread([y for _, y in ends], FONT * 1.3, box.y0, box.y1)
    for trace, (x, y), height in zip(traces, ends, heights, strict=True):
        _lead(figure, (x + 4, y), (box.x1 + 12, height))
        _write(figure, box.x1 + 14, height, shortened(trace.name, 30), bold=trace.ours)


def _draw_confusion(
    axes: Any, counts: Sequence[Sequence[int]], labels: Sequence[str], colour: str, *, first: bool
) -> None:
    from matplotlib.patches import Rectangle

    for row, cells in enumerate(counts):
        total = sum(cells) or 1
        for column, count in enumerate(cells):
            if not count:
                continue
            shade = 0.08 + 0.5 * count / total  # never so dark that the count cannot be read on it
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, alpha=shade, linewidth=0))
            axes.text(column, row, f"{count}", ha="center", va="center_baseline", fontsize=FONT - 1, color=INK)
    places = range(len(labels))
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xticks(places, labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, labels if first else [""] * len(labels))
    axes.tick_params(colors=INK, labelsize=FONT - 1, length=0)
    axes.spines[:].set_color(GRID)
    if first:
        axes.set_ylabel("right label", fontsize=FONT, color=INK)

"""Pictures of training runs, sweeps and studies; the one door of matplotlib, which the `report` extra installs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from softprompt import durable
from softprompt.errors import DataError, MissingExtraError
from softprompt.registry import unknown_name
from softprompt.training.runs import RunFolder

if TYPE_CHECKING:
    from softprompt.experiments.sweep_result import Trial

Events = Sequence[Mapping[str, Any]]
COLOURS = ("#2a6fbb", "#d1602b", "#2f8f5b", "#8a4fa3", "#7a6a2f")
"""One a run, told apart by most kinds of colour blindness and on paper; more runs begin again."""
SMOOTHING = 0.85
"""Share of the curve so far in each point of the smoothed loss."""


def require_matplotlib() -> None:
    """Refuse early what could draw nothing.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError('pictures need matplotlib, which is not installed: pip install "softprompt[report]"')


def training_curves(runs: Mapping[str, Path], path: str | Path, *, title: str = "Training") -> Path:
    """Draw loss, validation accuracy and the gradient norm of each virtual token over the steps of some runs.

    Args:
        runs: the folder of each run, by the name it is to have in the picture; at least one.
        path: the picture to write; its suffix says the format, for instance `.png`.
        title: what stands above it.

    Returns:
        The path of the picture.

    Raises:
        MissingExtraError: matplotlib is not installed.
        DataError: no run, or one that has measured no step.
        UnknownNameError: pictures of that suffix cannot be written.
        StorageError: the picture cannot be written.
    """
    require_matplotlib()
    measured = {name: _events(name, folder) for name, folder in runs.items()}
    if not measured:
        raise DataError("asked to draw no run; give the folder of at least one")
    out, figure = Path(path), _figure(len(measured))
    above, below = figure.subfigures(2, 1)
    loss, validation = above.subplots(1, 2)
    _draw_loss(loss, measured)
    _draw_validation(validation, measured)
    heat = below.subplots(1, len(measured), squeeze=False)[0]
    for axes, (name, events) in zip(heat, measured.items(), strict=True):
        _draw_gradients(below, axes, name, events)
    figure.legend(*loss.get_legend_handles_labels(), loc="upper right", ncols=len(measured), frameon=False)
    return _saved(figure, out, title)


class Curve(NamedTuple):
    """One line of a study: a figure at some places, with its interval over rows and its spread over seeds.

    Attributes:
        name: what it is called in the legend.
        places: where on the horizontal axis; numbers, or names.
        values: the figure, in [0, 1].
        intervals: low and high of each value over the rows.
        spreads: lowest and highest over the seeds.
    """

    name: str
    places: Sequence[float | str]
    values: Sequence[float]
    intervals: Sequence[tuple[float, float]]
    spreads: Sequence[tuple[float, float]]


def study_curves(
    curves: Sequence[Curve], path: str | Path, *, title: str, axis: str, measure: str, log: bool = False
) -> Path:
    """Draw a figure against a setting: bars for the interval over rows, a pale band for the spread over seeds.

    Args:
        curves: at least one, each with at least one place.
        path: the picture to write; its suffix says the format.
        title: what stands above it.
        axis: what the places are.
        measure: what the values are, and of which rows.
        log: equal ratios of places lie equally far apart.

    Returns:
        The path of the picture.

    Raises:
        MissingExtraError, UnknownNameError, StorageError: as for `training_curves`.
        DataError: there is nothing to draw.
    """
    require_matplotlib()
    if not any(curve.places for curve in curves):
        raise DataError("asked to draw a study of no cells; let at least one of them end")
    figure = _figure(1, height=5.5)
    axes = figure.subplots()
    names = [str(place) for curve in curves for place in curve.places if isinstance(place, str)]
    order = {name: at for at, name in enumerate(dict.fromkeys(names))}
    for number, curve in enumerate(curves):
        aside = 0.1 * (number - (len(curves) - 1) / 2)  # names have no order: points may stand side by side
        at = [order[str(place)] + aside if order else float(place) for place in curve.places]
        _draw_curve(axes, curve, at, COLOURS[number % len(COLOURS)], line=not order)
    if log and not order:
        _log_scale(axes, sorted({float(place) for curve in curves for place in curve.places}))
    if order:
        axes.set_xticks(list(order.values()), list(order))
    _finish(axes, "bars: 95 % over rows; pale: lowest to highest seed", measure)
    axes.set_xlabel(axis)
    figure.legend(*axes.get_legend_handles_labels(), loc="upper right", ncols=len(curves), frameon=False)
    return _saved(figure, Path(path), title)


def search_history(trials: Sequence[Trial], names: Sequence[str], path: str | Path, *, title: str) -> Path:
    """Draw the loss of each trial of a sweep: in their order, and against each setting that varied.

    Args:
        trials: those with a loss, at least one.
        names: the settings that varied.
        path: the picture to write; its suffix says the format.
        title: what stands above it.

    Returns:
        The path of the picture.

    Raises:
        MissingExtraError, UnknownNameError, StorageError: as for `training_curves`.
    """
    require_matplotlib()
    columns = min(len(names) + 1, 3)
    lines = -(-(len(names) + 1) // columns)
    figure = _figure(columns, height=1 + 3.5 * lines, width=4.5)
    first, *others = figure.subplots(lines, columns, squeeze=False).flat
    losses = [trial.loss or 0.0 for trial in trials]
    places = [trial.number + 1 for trial in trials]
    first.plot(places, losses, "o", color=COLOURS[0], alpha=0.6)
    first.step(places, list(accumulate(losses, min)), where="post", color=COLOURS[1], label="best so far")
    _finish(first, "in their order", "validation loss in nats")
    first.set_xlabel("trial")
    first.legend(frameon=False, loc="upper right")
    for axes, name in zip(others, names, strict=False):
        _draw_setting(axes, name, [trial.settings[name] for trial in trials], losses)
    for axes in others[len(names) :]:
        axes.set_axis_off()
    return _saved(figure, Path(path), title)


def smoothed(values: Sequence[float], share: float = SMOOTHING) -> list[float]:
    """Return the exponential moving average of a curve, without the usual pull of its start towards zero.

    >>> smoothed([2.0, 2.0, 2.0])
    [2.0, 2.0, 2.0]

    Args:
        values: the curve.
        share: how much of the average so far each point keeps, in [0, 1).
    """
    out, mean = [], 0.0
    for step, value in enumerate(values, start=1):
        mean = share * mean + (1 - share) * value
        out.append(round(mean / (1 - share**step), 12))
    return out


def _events(name: str, folder: Path) -> Events:
    events = RunFolder(folder).events()
    if not any(event["event"] == "step" for event in events):
        raise DataError(f"the run `{name}` in `{folder}` has measured no step; give the folder of a training run")
    return events


def _form_of(path: Path, known: Iterable[str]) -> str:
    form = path.suffix.lower().removeprefix(".")
    if form not in known:
        raise unknown_name("picture format", form, known)
    return form


def _figure(columns: int, *, height: float = 8.0, width: float = 5.5) -> Any:
    """An empty figure, drawn without a display and apart from pyplot's state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made: Any = Figure(figsize=(max(2 * width, width * columns), height), layout="constrained")
    FigureCanvasAgg(made)
    made.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    return made


def _saved(figure: Any, path: Path, title: str) -> Path:
    form = _form_of(path, figure.canvas.get_supported_filetypes())
    figure.suptitle(title, fontsize=14, fontweight="bold", x=0.02, ha="left")
    with durable.replacing(path) as stream:
        figure.savefig(stream, format=form, dpi=150)
    return path


def _draw_curve(axes: Any, curve: Curve, at: Sequence[float], colour: str, *, line: bool) -> None:
    values = [100 * value for value in curve.values]
    below = [value - 100 * low for value, (low, _) in zip(values, curve.intervals, strict=True)]
    above = [100 * high - value for value, (_, high) in zip(values, curve.intervals, strict=True)]
    errors = [[max(0.0, gap) for gap in gaps] for gaps in (below, above)]
    style = "-" if line else "none"
    axes.errorbar(at, values, yerr=errors, marker="o", capsize=3, color=colour, linestyle=style, label=curve.name)
    lowest, highest = ([100 * spread[end] for spread in curve.spreads] for end in (0, 1))
    if line:
        axes.fill_between(at, lowest, highest, color=colour, alpha=0.15, linewidth=0)
    else:
        axes.vlines(at, lowest, highest, color=colour, alpha=0.25, linewidth=9)


def _draw_setting(axes: Any, name: str, values: Sequence[Any], losses: Sequence[float]) -> None:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if numbers:
        axes.plot(values, losses, "o", color=COLOURS[0], alpha=0.6)
        if min(values) > 0 and max(values) >= 10 * min(values):
            axes.set_xscale("log")
    else:
        order = {value: at for at, value in enumerate(dict.fromkeys(str(value) for value in values))}
        axes.plot([order[str(value)] for value in values], losses, "o", color=COLOURS[0], alpha=0.6)
        axes.set_xticks(list(order.values()), list(order))
        axes.margins(x=0.3)
    _finish(axes, name.replace("_", " "), "validation loss in nats")
    axes.set_xlabel(name)


def _log_scale(axes: Any, places: Sequence[float]) -> None:
    """A logarithmic axis that names the places themselves."""
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(places, [f"{place:.3g}" if place < 1e5 else f"{place:.2g}" for place in places])


def _draw_loss(axes: Any, measured: Mapping[str, Events]) -> None:
    for (name, events), colour in zip(measured.items(), _colours(measured), strict=True):
        steps, losses = _curve(events, "step", "loss")
        axes.plot(steps, losses, color=colour, alpha=0.25, linewidth=1)
        axes.plot(steps, smoothed(losses), color=colour, linewidth=2, label=name)
    _finish(axes, "Training loss (pale: each step)", "loss in nats")
    axes.set_ylim(bottom=0)


def _draw_validation(axes: Any, measured: Mapping[str, Events]) -> None:
    other = axes.twinx()
    for events, colour in zip(measured.values(), _colours(measured), strict=True):
        steps, hits = _curve(events, "validation", "accuracy")
        axes.plot(steps, [100 * h for h in hits], color=colour, marker="o", linewidth=2)
        other.plot(*_curve(events, "validation", "loss"), color=colour, linestyle=":", linewidth=1.5)
    _finish(axes, "Validation accuracy (dotted: loss, scale on the right)", "accuracy in %")
    axes.set_xlim(left=0)
    other.set_ylabel("loss in nats", color="grey")
    other.tick_params(colors="grey")
    other.spines[["top"]].set_visible(False)
    other.set_ylim(bottom=0)


def _draw_gradients(figure: Any, axes: Any, name: str, events: Events) -> None:
    from matplotlib.colors import LogNorm

    steps, norms = _curve(events, "step", "token_gradient_norms")
    columns = [list(token) for token in zip(*norms, strict=True)]  # [P, steps]
    positive = [value for token in columns for value in token if value > 0] or [1.0]
    scale = LogNorm(min(positive), max(*positive, min(positive) * 1.01))
    extent = (steps[0] - 0.5, steps[-1] + 0.5, len(columns) - 0.5, -0.5)
    image = axes.imshow(columns, aspect="auto", interpolation="nearest", norm=scale, extent=extent, cmap="viridis")
    axes.set_title(f"{name}: gradient norm of each virtual token", loc="left", fontsize=11)
    axes.set_xlabel("step")
    axes.set_ylabel("virtual token")
    axes.yaxis.get_major_locator().set_params(integer=True)
    figure.colorbar(image, ax=axes, label="gradient norm", pad=0.02)


def _finish(axes: Any, title: str, measure: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("step")
    axes.set_ylabel(measure)
    axes.grid(visible=True, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top"]].set_visible(False)


def _curve(events: Events, kind: str, value: str) -> tuple[list[int], list[Any]]:
    chosen = [event for event in events if event["event"] == kind]
    return [event["step"] for event in chosen], [event[value] for event in chosen]


def _colours(measured: Mapping[str, Events]) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(len(measured))]

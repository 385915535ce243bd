"""Pictures of training runs; the one door of matplotlib, which the `report` extra installs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from softprompt import durable
from softprompt.errors import DataError, MissingExtraError
from softprompt.registry import unknown_name
from softprompt.training.runs import RunFolder

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
    form = _form_of(out, figure.canvas.get_supported_filetypes())
    above, below = figure.subfigures(2, 1)
    loss, validation = above.subplots(1, 2)
    _draw_loss(loss, measured)
    _draw_validation(validation, measured)
    heat = below.subplots(1, len(measured), squeeze=False)[0]
    for axes, (name, events) in zip(heat, measured.items(), strict=True):
        _draw_gradients(below, axes, name, events)
    figure.suptitle(title, fontsize=14, fontweight="bold", x=0.02, ha="left")
    figure.legend(*loss.get_legend_handles_labels(), loc="upper right", ncols=len(measured), frameon=False)
    with durable.replacing(out) as stream:
        figure.savefig(stream, format=form, dpi=150)
    return out


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


def _figure(runs: int) -> Any:
    """An empty figure, drawn without a display and apart from pyplot's state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made: Any = Figure(figsize=(max(11.0, 5.5 * runs), 8.0), layout="constrained")
    FigureCanvasAgg(made)
    made.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    return made


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

"""One picture: test accuracy against training time, for our default, LoRA and PEFT's prompt tuning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cells import Cells
from figures import measured
from results import Table
from subjects import Setting

DATA = ("trec", "sst2")
DRAWN = ("lora", "full", "prompt-tuning")
COLOURS = {"softprompt": "#2a6fbb", "lora": "#d1602b", "full": "#2f8f5b", "prompt-tuning": "#8a4fa3"}
NAMES = {
    "softprompt": "softprompt, no settings (whole command)", "lora": "LoRA, best rate and readout",
    "full": "full fine-tuning, best rate and readout", "prompt-tuning": "PEFT prompt tuning, tutorial settings",
}  # fmt: skip


Sides = Mapping[str, Mapping[str, Any]]


def accuracy_time(setting: Setting) -> list[Table]:
    """Write the picture and its numbers; return them as a table."""
    found = {data: {**_ours(setting, data), **_theirs(setting, data)} for data in DATA}
    found = {data: sides for data, sides in found.items() if sides}
    if not found:
        return []
    folder = Path(setting.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "accuracy_time.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    _draw(found, folder / "accuracy_time.svg")
    return [_table(found)]


def _ours(setting: Setting, data: str) -> Sides:
    """One point a seed: seconds of the whole process, the report card included, and accuracy on the test rows."""
    from accuracy import RUNS, cell

    (run,) = [run for run in RUNS if run.data == data]
    cells = Cells(setting, "accuracy", "accuracy", "one")
    made = [cells.read(cell(setting, run, seed)) for seed in run.seeds]
    points = [[each["seconds"], accuracy] for each in made if each and (accuracy := measured(each, "accuracy"))]
    return {"softprompt": {"points": points, "reached": points}} if points else {}


def _theirs(setting: Setting, data: str) -> Sides:
    """The curve of the chosen training: seconds of training and validation, accuracy on the watched test rows."""
    from rivals import chosen

    sides = {}
    for method in DRAWN:
        pair = chosen(setting, data, method, 0)
        if pair is not None:
            own = pair[1]["found"]
            points = [[point["seconds"], point["watched test accuracy"]] for point in own["curve"]]
            sides[method] = {"points": points, "reached": [[own["chosen"]["seconds"], own["test"]["accuracy"]]]}
    return sides


def _table(found: Mapping[str, Sides]) -> Table:
    table = Table("Accuracy against training time", ["task", "side", "seconds", "test accuracy %"])
    table.note = (
        "Rivals: the chosen training, at its lowest validation loss; seconds of training and validation, without "
        "loading, and without the other rates that were tried. Ours: a seed a row, seconds of the whole process, race, "
        "loading and report card included. The curves are on up to 500 test rows (`accuracy_time.svg`, "
        "`accuracy_time.json`), the table is on all of the report's."
    )
    for data, sides in found.items():
        for side, own in sides.items():
            table.rows += [[data, NAMES[side], f"{at:.0f}", f"{100 * reached:.1f}"] for at, reached in own["reached"]]
    return table


def _draw(found: Mapping[str, Sides], path: Path) -> None:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # The same figures give the same bytes: no date, and ids that do not change.
    with rc_context({"svg.hashsalt": "softprompt", "svg.fonttype": "none"}):
        figure: Any = Figure(figsize=(5.5 * len(found), 4.6), layout="constrained")
        FigureCanvasSVG(figure)
        every = figure.subplots(1, len(found), squeeze=False)[0]
        for axes, (data, sides) in zip(every, found.items(), strict=True):
            _panel(axes, data, sides)
        shown = {label: line for axes in every for line in axes.lines if (label := line.get_label()) in NAMES.values()}
        figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=2, frameon=False)
        figure.savefig(path, metadata={"Date": None})


def _panel(axes: Any, data: str, sides: Sides) -> None:
    for side, own in sides.items():
        points = own["points"]
        seconds, accuracy = [at for at, _ in points], [100 * reached for _, reached in points]
        style = {"linestyle": "", "marker": "o"} if side == "softprompt" else {"linewidth": 1.8}
        axes.plot(seconds, accuracy, color=COLOURS[side], label=NAMES[side], **style)
    axes.set_title(data, loc="left", fontsize=11)
    axes.set_xlabel("seconds")
    axes.set_ylabel("test accuracy in %")
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlim(left=0)
    axes.grid(visible=True, color="#e6e6e6", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)

"""Does compiling the layers pay in training? Its own time included, cold and warm."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import child
from results import Result, Table
from rounds import median_ratio
from subjects import GPT2, Setting

PROCEDURE = """One training step of ours on the batches of a real run, whose lengths differ from step to step, with
layers as the trainer compiles them for a long training, one graph for all (`softprompt/backbones/compiling.py`), and
with layers as they are. Both take turns in one process. Compiling: seconds until the first compiled step is done,
less a step, once with an empty cache (cold) and once more in a fresh process with the cache that this left (warm).
Break-even: the steps after which compiling has paid for itself; *never* where the compiled step is not faster."""

LENGTHS = (20, 100)


def compiling(setting: Setting) -> Result:
    steps = setting.pick(12, 4)
    subjects = [
        (chosen, P) for chosen in (setting, replace(setting, backbone=GPT2)) for P in setting.pick(LENGTHS, (2,))
    ]
    eager = child.call("compile_cases", "eager", **setting.plain(virtual_tokens=LENGTHS[0], steps=steps))
    found = {f"{chosen.backbone}, P = {P}": _runs(chosen, P, steps) for chosen, P in subjects}
    tables = [_table(found), _operators(eager)]
    figures = {"eager": eager, "compiled": found}
    return Result("compile", "Compiled layers in training", PROCEDURE, tables, figures, setting.files("sst2"))


def _runs(setting: Setting, virtual_tokens: int, steps: int) -> dict[str, Any]:
    """Twice with one cache: cold, then warm."""
    with tempfile.TemporaryDirectory() as cache:
        asked = setting.plain(virtual_tokens=virtual_tokens, steps=steps, cache=cache)
        return {name: _tried(asked) for name in ("cold", "warm")}


def _tried(asked: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = child.call("compile_cases", "layers", **asked)
    except child.ChildError as error:
        return {"failed": str(error)}
    return found


def _table(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    columns = [
        "backbone", "cache", "layers", "graphs", "graph breaks", "eager step, ms", "compiled step, ms", "faster by",
        "compiling, seconds", "break-even, steps",
    ]  # fmt: skip
    table = Table("Eager and compiled steps", columns)
    for subject, runs in found.items():
        for cache, run in runs.items():
            if "failed" in run:
                table.rows.append([subject, cache, f"failed: {run['failed']}", *[""] * 7])
                continue
            slow, fast = (run["seconds"][side] for side in ("eager", "compiled"))
            ratio = median_ratio(slow, fast)
            gain = statistics.median(slow) * (1 - 1 / ratio)
            steps = f"{run['compiling'] / gain:,.0f}" if gain > 0 else "never"
            table.rows.append([
                subject, cache, str(run["layers"]), str(run["graphs"]), str(run["breaks"]),
                *(f"{1000 * statistics.median(side):.0f}" for side in (slow, fast)),
                f"**{ratio:.2f}** ×", f"{run['compiling']:.1f}", steps,
            ])  # fmt: skip
    return table


def _operators(eager: Mapping[str, Any]) -> Table:
    table = Table("Where an eager step spends its time", ["operator", "share of CPU time"])
    table.note = f"Seconds a step, median: {statistics.median(eager['seconds']):.3f}."
    table.rows = [[f"`{name}`", f"{share:.1%}"] for name, share in eager["operators"]]
    return table

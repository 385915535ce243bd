"""Does `torch.compile` pay in training? Its own time included, cold and warm, part by part."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from typing import Any

import child
from results import Result, Table
from rounds import median_ratio
from subjects import Setting

PROCEDURE = """One training step of ours, 20 virtual tokens, on the batches of a real run, whose lengths differ from
step to step; norms and MLPs: `torch.compile(forward, dynamic=True)` on each module; layers: as the trainer compiles
them for a long training, one graph for all (`softprompt/backbones/compiling.py`). Each kind in a process of its own.
Compiled and eager steps take turns in that process. Compiling: the first steps' time beyond that of as many steady
compiled ones, once with an empty cache (cold) and once more in a fresh process with the cache that this left (warm).
Break-even: the steps after which compiling has paid for itself; *never* where the compiled step is not faster."""

VIRTUAL_TOKENS = 20
PARTS = ("norms", "mlp", "layers")


def compiling(setting: Setting) -> Result:
    steps = setting.pick(12, 4)
    eager = child.call("compile_cases", "eager", **setting.plain(virtual_tokens=VIRTUAL_TOKENS, steps=steps))
    found = {part: _part(setting, part, steps) for part in PARTS}
    tables = [_table(found), _operators(eager)]
    figures = {"eager": eager, "compiled": found}
    return Result("compile", "torch.compile in training", PROCEDURE, tables, figures, setting.files("sst2"))


def _part(setting: Setting, part: str, steps: int) -> dict[str, Any]:
    """Twice with one cache: cold, then warm."""
    with tempfile.TemporaryDirectory() as cache:
        asked = setting.plain(part=part, virtual_tokens=VIRTUAL_TOKENS, steps=steps, cache=cache)
        return {name: _tried(asked) for name in ("cold", "warm")}


def _tried(asked: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = child.call("compile_cases", "compiled", **asked)
    except child.ChildError as error:
        return {"failed": str(error)}
    return found


def _table(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    columns = [
        "compiled", "cache", "modules", "graphs", "graph breaks", "eager step, ms", "compiled step, ms", "faster by",
        "compiling, seconds", "break-even, steps",
    ]  # fmt: skip
    table = Table("Eager and compiled steps", columns)
    for part, runs in found.items():
        for cache, run in runs.items():
            if "failed" in run:
                table.rows.append([part, cache, f"failed: {run['failed']}", *[""] * 7])
                continue
            slow, fast = (run["seconds"][side] for side in ("eager", "compiled"))
            ratio = median_ratio(slow, fast)
            gain = statistics.median(slow) * (1 - 1 / ratio)
            steps = f"{run['compiling'] / gain:,.0f}" if gain > 0 else "never"
            table.rows.append([
                part, cache, str(run["modules"]), str(run["graphs"]), str(run["breaks"]),
                *(f"{1000 * statistics.median(side):.0f}" for side in (slow, fast)),
                f"**{ratio:.2f}** ×", f"{run['compiling']:.1f}", steps,
            ])  # fmt: skip
    return table


def _operators(eager: Mapping[str, Any]) -> Table:
    table = Table("Where an eager step spends its time", ["operator", "share of CPU time"])
    table.note = f"Seconds a step, median: {statistics.median(eager['seconds']):.3f}."
    table.rows = [[f"`{name}`", f"{share:.1%}"] for name, share in eager["operators"]]
    return table

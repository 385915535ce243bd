"""What `estimate` says beforehand, beside what is measured: numbers, bytes, memory and time of a training step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from child import call
from results import Result, Table
from subjects import GPT2, Setting

TOLERANCE = 0.15
PROCEDURE = """The estimate is told the configuration, the number of rows, their length and the prompt's; it reads no
weights. Then the same is measured, each figure in a process of its own: numbers that train and bytes of the prompt's
file and of its keys and values; the bytes of tensors that are alive at the height of a training step, every one counted
as it comes and goes, and how much the process grows from a loaded backbone, warmed up on rows of a few tokens, which is
more by the holes in its heap; and the median time of a step. The predicted time is the sum of the step's
operators, each timed alone on random tensors of its shapes, and a measured time between operators."""
CASES = {"gemma-3-270m": (20, 36), GPT2: (20, 36)}
"""Virtual tokens, and words of a row, by backbone."""


def estimate(setting: Setting) -> Result:
    subjects = [setting, replace(setting, backbone=GPT2)]
    figures = {each.backbone: _one(each) for each in subjects}
    table = Table("Estimated beside measured", ["backbone", "figure", "estimated", "measured", "ratio (0.85 to 1.15)"])
    for backbone, found in figures.items():
        table.rows += [_row(backbone, name, found) for name in NAMES]
    table.note = "A step: " + "; ".join(
        f"{backbone}: {found['asked']['rows']} rows of {found['asked']['tokens']} tokens" for backbone, found in
        figures.items()
    )  # fmt: skip
    return Result("estimate", "Estimates beside measurements", PROCEDURE, [table], figures)


NAMES = ("parameters", "trained", "file", "key values", "growth", "process growth", "seconds")


def _one(setting: Setting) -> dict[str, Any]:
    virtual_tokens, words = CASES.get(setting.backbone, (5, 8))
    plain = setting.plain(virtual_tokens=virtual_tokens, words=words)
    asked = call("estimate_cases", "shape", **plain)
    said = call("estimate_cases", "predicted", measure=True, **asked)
    seen = call("estimate_cases", "sizes", **plain)
    grown = call("estimate_cases", "growth", steps=setting.pick(4, 1), **plain)
    taken = call("estimate_cases", "seconds", steps=setting.pick(20, 2), **plain)
    said |= {"seconds": said["measured"]["seconds"], "process growth": said["growth"]}
    measured = {**seen, **grown, "seconds": taken["seconds"]}
    ratios = {name: said[name] / measured[name] for name in NAMES}
    return {"asked": asked, "estimated": said, "measured": measured, "ratios": ratios, "steps": taken["all"]}


def _row(backbone: str, name: str, found: Mapping[str, Any]) -> list[str]:
    said, seen, ratio = (found[part][name] for part in ("estimated", "measured", "ratios"))
    shown = [f"{value:.4f} s" if name == "seconds" else f"{value:,.0f}" for value in (said, seen)]
    return [backbone, name, *shown, f"**{ratio:.3f}**" if abs(ratio - 1) <= TOLERANCE else f"{ratio:.3f} (outside)"]

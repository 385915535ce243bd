"""Figures out of a report card's JSON, as the cells of `accuracy` keep it: the one place that knows its keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PROBE = "linear probe"
KEYS = {"bleu": ("bleu",), "entity f1": ("entity_f1", "f1"), "accuracy": ("accuracy",), "macro f1": ("macro_f1",)}
"""The keys of a measure among a report's figures, the first that is there."""


def measured(cell: Mapping[str, Any], measure: str) -> float | None:
    """A measure of the trained prompt on the report's rows, in [0, 1]; None where the report has none."""
    report = cell["found"]["report"]
    if measure.startswith("f1 of "):
        rows = [row for row in report.get("classes", ()) if row["label"] == measure.removeprefix("f1 of ")]
        return rows[0]["f1"] if rows else None
    return _figure(report["figures"], measure)


def reference(cell: Mapping[str, Any], name: str, measure: str) -> float | None:
    """The same of a reference that costs nothing, by its name in the report."""
    rivals = {rival["name"]: rival["figures"] for rival in cell["found"]["report"].get("rivals", ())}
    return _figure(rivals.get(name) or {}, measure)


def linear_probe(cell: Mapping[str, Any], measure: str) -> float | None:
    return reference(cell, PROBE, measure)


def below_probe(cell: Mapping[str, Any]) -> bool:
    """Whether the prompt is less accurate than the linear probe on the same rows, by however little."""
    ours, probe = measured(cell, "accuracy"), linear_probe(cell, "accuracy")
    return ours is not None and probe is not None and ours < probe


def said_first(cell: Mapping[str, Any]) -> bool:
    """Whether the report names the linear probe before all else: first in its verdict, and in its first line."""
    report = cell["found"]["report"]
    verdict = report.get("verdict") or [""]
    return PROBE in verdict[0] and PROBE in report["first line"]


def _figure(figures: Mapping[str, Any], measure: str) -> float | None:
    """BLEU is often told in percent; everything here is a share."""
    found = next((figures[key] for key in KEYS.get(measure, ()) if figures.get(key) is not None), None)
    return None if found is None else found / 100 if measure == "bleu" and found > 1 else found

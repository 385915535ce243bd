"""Ratios of timings that were taken turn by turn."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from softprompt.methods.turns import turn_by_turn

__all__ = ["median_ratio", "turn_by_turn"]


def median_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """The median, over the rounds, of how many times longer `slow` took."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))

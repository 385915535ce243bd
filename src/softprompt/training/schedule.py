"""The learning rate over a run."""

from __future__ import annotations

import math


def warmup_cosine(step: int, steps: int, warmup: float) -> float:
    """Return the share of the full rate at `step` of `steps`: rising over the first `warmup` share, then a half cosine.

    >>> [round(warmup_cosine(s, 10, 0.2), 2) for s in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    rising = max(1, round(warmup * steps)) if warmup else 0
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

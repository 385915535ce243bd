"""What is watched at every step, and what is said when it looks wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from softprompt.shapes import Float

QUIET = 1e-4
"""A token whose gradient stays below this share of the median is said to vanish."""
LOUD = 1e3
"""A token whose gradient exceeds this multiple of the median is said to explode."""
PATIENCE = 10
"""Steps in a row before either is said: one odd batch is no news."""


def token_norms(gradient: Float[Tensor, "P D"]) -> list[float]:
    """Return the gradient norm of each virtual token."""
    return [float(n) for n in gradient.norm(dim=-1)]


def distance(tokens: Float[Tensor, "P D"], start: Float[Tensor, "P D"]) -> float:
    """Return how far the prompt has moved: mean distance of a token from its start, in units of the start's norm."""
    scale = start.norm(dim=-1).mean().clamp(min=1e-12)
    return float(((tokens.detach() - start).norm(dim=-1)).mean() / scale)


@dataclass
class GradientWatch:
    """Counts how long each token's gradient has been far from the others', and says so once.

    The counts are part of a checkpoint (`state`), so that a resumed run says the same.
    """

    streaks: dict[str, list[int]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def see(self, norms: list[float]) -> list[str]:
        """Take the gradient norms of one step, [P]; return the warnings that are due, each at most once a run."""
        middle = sorted(norms)[len(norms) // 2]
        if middle <= 0 or not math.isfinite(middle):
            return []
        flags = {
            "vanishes": [n < QUIET * middle for n in norms],
            "explodes": [n > LOUD * middle for n in norms],
        }
        return [warning for what, hits in flags.items() for warning in self._count(what, hits)]

    def _count(self, what: str, hits: list[bool]) -> list[str]:
        streak = self.streaks.setdefault(what, [0] * len(hits))
        due = []
        for token, hit in enumerate(hits):
            streak[token] = streak[token] + 1 if hit else 0
            key = f"{what}:{token}"
            if streak[token] >= PATIENCE and key not in self.said:
                self.said.append(key)
                due.append(
                    f"the gradient of virtual token {token} {what} (beside the median of the others, {PATIENCE} steps "
                    "in a row); try another init or fewer virtual tokens"
                )
        return due

    def state(self) -> dict[str, object]:
        """Return the counts as plain JSON."""
        return {"streaks": self.streaks, "said": self.said}


def is_finite(loss: Tensor, gradient: Tensor) -> bool:
    """Tell whether a step may be taken: loss and gradient are all finite."""
    return bool(torch.isfinite(loss)) and bool(torch.isfinite(gradient).all())

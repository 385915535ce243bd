"""What is watched at every step, and what is said when it looks wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
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


def token_norms(gradient: Mapping[str, Tensor]) -> list[float]:
    """Return the gradient norm of each virtual token, all layers together where the prompt is keys and values."""
    squares = [_squares(site, tensor) for site, tensor in gradient.items() if not site.startswith("readout.")]
    return [float(n) for n in torch.stack(squares).sum(0).sqrt()]


def distance(tensors: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> float:
    """Return how far the prompt has moved, in units of its start: the mean over sites of a token's mean distance."""
    moved = []
    for site, tensor in tensors.items():
        if not site.startswith("readout."):
            origin = start[site].to(tensor.device)
            scale = _squares(site, origin).sqrt().mean().clamp(min=1e-12)
            moved.append(float(_squares(site, tensor.detach() - origin).sqrt().mean() / scale))
    return sum(moved) / len(moved)


def _squares(site: str, tensor: Tensor) -> Float[Tensor, " P"]:
    """The squared norm of each virtual token: of rows [P, D], or of keys or values [H, P, K]."""
    squares: Tensor = tensor.pow(2).sum(dim=(0, 2)) if site.startswith("layers.") else tensor.pow(2).sum(dim=-1)
    return squares


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


def is_finite(loss: Tensor, gradient: Iterable[Tensor]) -> bool:
    """Tell whether a step may be taken: loss and gradient are all finite."""
    return bool(torch.isfinite(loss)) and all(bool(torch.isfinite(part).all()) for part in gradient)

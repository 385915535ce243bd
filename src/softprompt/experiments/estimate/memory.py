"""What a training holds in memory, part by part, and what a server holds for its prompts."""

from __future__ import annotations

from dataclasses import dataclass

from softprompt.backbones.blueprint import Blueprint
from softprompt.backbones.rehearsal import Rehearsal, Step

MASTER, GRADIENT, MOMENTS, BEST = 4, 4, 8, 4
"""Bytes of a number that trains: itself in fp32, its gradient, Adam's two moments (Kingma & Ba 2014, arXiv 1412.6980;
counted as in Rajbhandari et al. 2020, arXiv 1910.02054, section 3.1), and the best state so far."""
RESERVE = 0.1
"""Of a machine's memory that is left to its libraries, when prompts are packed beside a model."""


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step, part by part.

    Attributes:
        weights: of the model, in its dtype.
        state: of what trains: numbers in fp32, Adam's moments, the best state so far.
        gradients: of what trains, in fp32: there at the step, when the graph is gone.
        graph: activations of the largest pass that gradients need, the prefix's keys and values among them.
        passing: what forward and backward pass hold beside that at their height, gradients so far among it.
        logits: scores of the labels' output rows, with their probabilities.
        key_values: of that, keys and values of the prompt's prefix.
    """

    weights: int
    state: int
    gradients: int
    graph: int
    passing: int
    logits: int
    key_values: int

    @property
    def growth(self) -> int:
        """All but the weights: the height of the passes or of the step, whichever is more."""
        return self.state + self.logits + max(self.graph + self.passing, self.gradients)

    @property
    def total(self) -> int:
        """Everything at once."""
        return self.weights + self.growth


def memory_of(shape: Blueprint, each: int, step: Step, rehearsal: Rehearsal, trained: int) -> Memory:
    """Return what a step holds.

    Args:
        shape: of the model.
        each: bytes of a weight.
        step: what was rehearsed.
        rehearsal: of the step; with `full` the weights' own gradients are among its tensors.
        trained: numbers that train.
    """
    return Memory(
        weights=shape.total * each,
        state=trained * (MASTER + MOMENTS + BEST),
        gradients=trained * GRADIENT,
        graph=rehearsal.graph,
        passing=rehearsal.peak - rehearsal.graph,
        logits=2 * 4 * step.rows * step.labels,
        key_values=rehearsal.prefix,
    )


def resident(shape: Blueprint, slots: int, each: int) -> int:
    """Return the bytes of keys and values of one prompt that is kept for use: Σ over layers of 2·H·S·K·bytes.

    Engines that keep no more columns than a layer's window sees need fewer; see `resident_in_windows`.

    Args:
        shape: of the model.
        slots: S, virtual tokens and the words of the prefix.
        each: bytes of a number.
    """
    return sum(layer.numbers for layer in shape.layers) * slots * each


def resident_in_windows(shape: Blueprint, slots: int, each: int) -> int:
    """Return the same where layers with a sliding window keep the columns that it sees, and no more."""
    kept = (layer.numbers * min(slots, layer.window or slots) for layer in shape.layers)
    return sum(kept) * each


def beside(memory: float, weights: int, one: int, batch: int) -> int:
    """Return how many prompts' keys and values fit beside a model and one batch of rows.

    >>> beside(16e9, 2_000_000_000, 1_000_000, 400_000_000)
    12000
    """
    left = memory * (1 - RESERVE) - weights - batch
    return max(0, int(left // one)) if one else 0


def logits_everywhere(shape: Blueprint, step: Step, each: int) -> int:
    """Return the bytes that logits of every token and word would take, as a plain language-modelling loss has them.

    In the model's dtype, in fp32 and as fp32 gradient: B·T·V·(bytes + 8).
    """
    return step.rows * (step.tokens + step.prefix) * shape.vocabulary * (each + 8)

"""Virtual tokens that move in few directions, which are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Generator, Tensor, nn

from softprompt.prompts.parameterizations.base import Group, PromptParameterization
from softprompt.prompts.parameterizations.spec import Spec
from softprompt.shapes import Float


class LowRankPrompt(PromptParameterization):
    """P = P₀ + ρ·A B, with A [P, r] and B [r, D], both trained: r·(P + D) parameters.

    Decomposed prompt tuning (Xiao et al. 2023, arXiv 2310.10094) and LoPT (arXiv 2406.19486) write
    P = A B, from a random start. Ours adds the product to the first values: a truncated decomposition of P₀ would lose
    all of it beyond rank r, and training would start at another text. B starts at zero and A at random, so that the
    first step follows the gradient along r mixtures of the tokens; the other way round it would follow r random
    directions of the embedding space, which has many more.

    Args:
        initial: P₀ [P, D].
        scale: ρ, RMS of the backbone's embedded tokens.
        rank: r.
        generator: for A.

    >>> LowRankPrompt(torch.ones(20, 64), 1.0, 4, torch.Generator()).materialize()["input"].shape
    torch.Size([20, 64])
    """

    name: Final = "low-rank"
    start: Tensor

    def __init__(self, initial: Float[Tensor, "P D"], scale: float, rank: int, generator: Generator) -> None:
        super().__init__()
        length, width = initial.shape
        self._scale = scale
        self.register_buffer("start", initial.clone())
        self.mixtures = nn.Parameter(torch.randn(length, rank, generator=generator) * rank**-0.5)
        self.directions = nn.Parameter(torch.zeros(rank, width))

    def materialize(self) -> Mapping[str, Tensor]:
        """Return the first values and the product."""
        return {"input": self.start + self._scale * self.mixtures @ self.directions}

    def groups(self) -> Sequence[Group]:
        """Return A relative to its first size, and B in units of ρ."""
        return (Group((self.mixtures,), self.mixtures.shape[1] ** -0.5), Group((self.directions,), 1.0))


def from_spec(spec: Spec) -> LowRankPrompt:
    """Build from a spec; setting `rank`: r, by default 10 as in the paper."""
    settings = spec.read(LowRankPrompt.name, rank=10)
    return LowRankPrompt(spec.rows(LowRankPrompt.name), spec.rms, settings["rank"], spec.generator)

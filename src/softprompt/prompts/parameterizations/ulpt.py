"""Virtual tokens that move in few directions, which are random and frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Generator, Tensor, nn

from softprompt.prompts.parameterizations.base import Group, PromptParameterization
from softprompt.prompts.parameterizations.spec import Spec
from softprompt.shapes import Float


class UlptPrompt(PromptParameterization):
    """P = P₀ + ρ·((Z Q) ∘ s + b): ultra-low-dimensional prompt tuning (ULPT, Wu et al. 2025, arXiv 2502.04501).

    Q [r, D] is random and frozen; Z [P, r], the scale s [D] and the shift b [D] are trained: P·r + 2·D parameters.

    In the paper P = (Z Q) ∘ s + b with Z random. Ours is added to the first values and Z starts at zero, so that
    training starts at the text; s starts at 1 and b at 0 as in the paper. Q has the variance 1/r instead of 1.

    Args:
        initial: P₀ [P, D].
        scale: ρ, RMS of the backbone's embedded tokens.
        rank: r.
        generator: for Q.

    >>> UlptPrompt(torch.ones(20, 64), 1.0, 8, torch.Generator()).materialize()["input"].shape
    torch.Size([20, 64])
    """

    name: Final = "ulpt"
    start: Tensor
    projection: Tensor

    def __init__(self, initial: Float[Tensor, "P D"], scale: float, rank: int, generator: Generator) -> None:
        super().__init__()
        length, width = initial.shape
        self._scale = scale
        self.register_buffer("start", initial.clone())
        self.register_buffer("projection", torch.randn(rank, width, generator=generator) * rank**-0.5)
        self.codes = nn.Parameter(torch.zeros(length, rank))
        self.stretch = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def materialize(self) -> Mapping[str, Tensor]:
        """Return the first values and the stretched and shifted projection of Z."""
        return {"input": self.start + self._scale * (self.codes @ self.projection * self.stretch + self.shift)}

    def groups(self) -> Sequence[Group]:
        """Return Z, and s and b, all in units of ρ."""
        return (Group((self.codes,), 1.0), Group((self.stretch, self.shift), 1.0))


def from_spec(spec: Spec) -> UlptPrompt:
    """Build from a spec; setting `rank`: r, by default 64, the paper's best on small data."""
    settings = spec.read(UlptPrompt.name, rank=64)
    return UlptPrompt(spec.rows(UlptPrompt.name), spec.rms, settings["rank"], spec.generator)

"""Virtual tokens as superpositions of sampled vocabulary rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Generator, Tensor, nn

from softprompt.prompts.parameterizations.base import Group, PromptParameterization
from softprompt.prompts.parameterizations.spec import Spec
from softprompt.shapes import Float


class SuperposPrompt(PromptParameterization):
    """pᵢ = p⁰ᵢ + E uᵢ + ΔEᵢ (wᵢ + uᵢ): superpositions of M vocabulary rows (Sadraei et al. 2024, arXiv 2406.05279).

    E [M, D], sampled rows, is shared and frozen; so are the random first weights w [P, M]. Trained are the change u
    [P, M] of the weights and the residual ΔE [P, M, D], one for each token, both from zero: P·M·(D + 1) parameters.

    The paper writes pᵢ = (E + ΔEᵢ)(wᵢ + uᵢ); ours takes E wᵢ away and puts the first values in its place, so that
    training starts at the text with the paper's gradients. The weights are not normalised, as in the paper.

    Args:
        initial: p⁰ [P, D].
        scale: ρ, RMS of the backbone's embedded tokens.
        vocabulary: E [M, D].
        generator: for w.

    >>> SuperposPrompt(torch.ones(20, 64), 1.0, torch.ones(8, 64), torch.Generator()).materialize()["input"].shape
    torch.Size([20, 64])
    """

    name: Final = "superpos"
    start: Tensor
    vocabulary: Tensor
    weights: Tensor

    def __init__(
        self, initial: Float[Tensor, "P D"], scale: float, vocabulary: Float[Tensor, "M D"], generator: Generator
    ) -> None:
        super().__init__()
        self._scale = scale
        (length, width), count = initial.shape, vocabulary.shape[0]
        self.register_buffer("start", initial.clone())
        self.register_buffer("vocabulary", vocabulary.clone())
        self.register_buffer("weights", torch.randn(length, count, generator=generator) * count**-0.5)
        self.change = nn.Parameter(torch.zeros(length, count))
        self.residual = nn.Parameter(torch.zeros(length, count, width))

    def materialize(self) -> Mapping[str, Tensor]:
        """Return the first values and what the superposition has moved by."""
        own = torch.einsum("pm,pmd->pd", self.weights + self.change, self.residual)
        return {"input": self.start + self.change @ self.vocabulary + own}

    def groups(self) -> Sequence[Group]:
        """Return the weights and the residual, each such that its M parts together move a token as a free one moves."""
        share = self.change.shape[1] ** -0.5
        return (Group((self.change,), share), Group((self.residual,), share * self._scale))


def from_spec(spec: Spec) -> SuperposPrompt:
    """Build from a spec with `vocabulary` rows, 128 in the paper; no settings."""
    name = SuperposPrompt.name
    spec.read(name)
    return SuperposPrompt(spec.rows(name), spec.rms, spec.sampled(name), spec.generator)

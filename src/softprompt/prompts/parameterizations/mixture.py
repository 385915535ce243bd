"""Several prompts, weighed once for the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Generator, Tensor, nn

from softprompt.prompts.parameterizations.base import Group, PromptParameterization
from softprompt.prompts.parameterizations.spec import Spec
from softprompt.shapes import Float


class MixturePrompt(PromptParameterization):
    """P = Σₖ softmax(a)ₖ·(P₀ + Nₖ + Δₖ): N prompts under one set of weights, which are those of the task.

    The Δₖ [N, P, D], from zero, and a [N], from zero, are trained; the Nₖ are random, frozen and sum to zero, so that
    the prompts differ, the weights have something to choose from, and the first mixture is P₀. N·P·D + N parameters.

    SMoP (Choi et al., EMNLP 2023) chooses one of its prompts for each row; that does not fold into one tensor. Weights
    that are the same for every row do, and keep what overparameterization gives to training, not the routing.

    Args:
        initial: P₀ [P, D].
        scale: ρ, RMS of the backbone's embedded tokens, and of the Nₖ.
        count: N.
        generator: for the Nₖ.

    >>> MixturePrompt(torch.ones(20, 64), 1.0, 4, torch.Generator()).materialize()["input"].shape
    torch.Size([20, 64])
    """

    name: Final = "mixture"
    start: Tensor
    spread: Tensor

    def __init__(self, initial: Float[Tensor, "P D"], scale: float, count: int, generator: Generator) -> None:
        super().__init__()
        noise = torch.randn(count, *initial.shape, generator=generator) * scale
        self._scale = scale
        self.register_buffer("start", initial.clone())
        self.register_buffer("spread", noise - noise.mean(0))
        self.change = nn.Parameter(torch.zeros(count, *initial.shape))
        self.scores = nn.Parameter(torch.zeros(count))

    def materialize(self) -> Mapping[str, Tensor]:
        """Return the weighted sum; that of the Nₖ is taken about its first value, so that rounding adds nothing."""
        weights = torch.softmax(self.scores, 0)
        moved = torch.tensordot(weights - 1 / len(weights), self.spread, dims=1)
        return {"input": self.start + moved + torch.tensordot(weights, self.change, dims=1)}

    def groups(self) -> Sequence[Group]:
        """Return the prompts at the scale of the embeddings, and the scores as they are."""
        return (Group((self.change,), self._scale), Group((self.scores,), 1.0))


def from_spec(spec: Spec) -> MixturePrompt:
    """Build from a spec; setting `prompts`: N, by default 4."""
    settings = spec.read(MixturePrompt.name, prompts=4)
    return MixturePrompt(spec.rows(MixturePrompt.name), spec.rms, settings["prompts"], spec.generator)

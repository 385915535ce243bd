"""A small network in front of the virtual tokens, as in P-tuning with its MLP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from torch import Generator, Tensor, nn

from softprompt.prompts.parameterizations.base import Group, PromptParameterization
from softprompt.prompts.parameterizations.perceptron import Perceptron
from softprompt.prompts.parameterizations.spec import Spec
from softprompt.shapes import Float


class MlpPrompt(PromptParameterization):
    """P = P₀ + ρ·(W₂ relu(W₁ E + b₁) + b₂): a network shared by all tokens.

    P-tuning with its MLP (Liu et al. 2021, arXiv 2103.10385). E [P, D] starts at P₀/ρ and is trained with the network;
    P₀ stays. P·D + 2·m·D + m + D parameters.

    In the paper the network's output alone is the prompt, from a random start; ours is added to the first values
    and starts at zero, so that training starts at the text.

    Args:
        initial: P₀ [P, D].
        scale: ρ, RMS of the backbone's embedded tokens.
        hidden: m, width of the network.
        generator: for its weights.

    >>> import torch
    >>> MlpPrompt(torch.ones(20, 64), 1.0, 32, torch.Generator()).materialize()["input"].shape
    torch.Size([20, 64])
    """

    name: Final = "mlp"
    start: Tensor

    def __init__(self, initial: Float[Tensor, "P D"], scale: float, hidden: int, generator: Generator) -> None:
        super().__init__()
        self._scale = scale
        self.register_buffer("start", initial.clone())
        self.embedding = nn.Parameter(initial / scale)
        self.network = Perceptron(initial.shape[1], hidden, initial.shape[1], generator)

    def materialize(self) -> Mapping[str, Tensor]:
        """Return the first values and what the network adds to them."""
        return {"input": self.start + self._scale * self.network(self.embedding)}

    def groups(self) -> Sequence[Group]:
        """Return the network's input in units of ρ, and the network."""
        return (Group((self.embedding,), 1.0), *self.network.groups())


def from_spec(spec: Spec) -> MlpPrompt:
    """Build from a spec; setting `hidden`: m, by default D as in the paper."""
    rows = spec.rows(MlpPrompt.name)
    settings = spec.read(MlpPrompt.name, hidden=rows.shape[1])
    return MlpPrompt(rows, spec.rms, settings["hidden"], spec.generator)

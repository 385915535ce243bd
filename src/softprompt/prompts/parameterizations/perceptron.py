"""Two linear maps with a bend between them: what several parameterizations put in front of a prompt."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from softprompt.prompts.parameterizations.base import Group
from softprompt.shapes import Float

GAIN = 2.0
"""Rate of a matrix times its number of inputs, relative to the rate of a free coordinate."""


class Perceptron(nn.Module):
    """y = W₂ f(W₁ x + b₁) + b₂, for inputs x of unit size.

    A matrix with n inputs has 2/n of a free coordinate's rate: AdamW moves every entry by about its rate, the n moves
    add up, and so the output moves by about as much whatever the widths are (Yang et al. 2022, arXiv 2203.03466). It is
    2 because not all of them have the same sign. Biases have the rate of a free coordinate.

    Args:
        inputs: width of x.
        hidden: width between the maps.
        outputs: width of y.
        generator: for the random weights.
        bend: f, `relu` or `tanh`.
        silent: start with W₂ = 0, so that y = 0.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        generator: Generator,
        *,
        bend: Literal["relu", "tanh"] = "relu",
        silent: bool = True,
    ) -> None:
        super().__init__()
        self._bend = torch.relu if bend == "relu" else torch.tanh
        power = 2.0 if bend == "relu" else 1.0  # a relu lets half of the power through
        self.inner = nn.Parameter(torch.randn(hidden, inputs, generator=generator) * (power / inputs) ** 0.5)
        self.inner_bias = nn.Parameter(torch.zeros(hidden))
        outer = torch.zeros(outputs, hidden) if silent else torch.randn(outputs, hidden, generator=generator)
        self.outer = nn.Parameter(outer * hidden**-0.5)
        self.outer_bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Float[Tensor, "P inputs"]) -> Float[Tensor, "P outputs"]:
        """Return y for each row of x."""
        return F.linear(self._bend(F.linear(x, self.inner, self.inner_bias)), self.outer, self.outer_bias)

    def groups(self) -> tuple[Group, ...]:
        """Return the matrices, each at the rate of its width, and the biases."""
        return (
            Group((self.inner,), GAIN / self.inner.shape[1]),
            Group((self.outer,), GAIN / self.outer.shape[1]),
            Group((self.inner_bias, self.outer_bias), 1.0),
        )

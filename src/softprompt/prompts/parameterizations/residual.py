"""Virtual tokens with a shared network around which they are also passed unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from softprompt.prompts.parameterizations.base import Group, PromptParameterization
from softprompt.prompts.parameterizations.perceptron import Perceptron
from softprompt.prompts.parameterizations.spec import Spec
from softprompt.shapes import Float


class ResidualPrompt(PromptParameterization):
    """P = V + ρ·LayerNorm(W₂ relu(W₁ V/ρ + b₁) + b₂) : a network that may pass.

    Residual prompt tuning (Razdaibiedina et al. 2023, arXiv 2305.03937).
    The network is shared by all tokens; V [P, D] is trained with it. P·D + 2·m·D + m + 3·D parameters.

    In the paper the LayerNorm starts at gain 1, so that the first prompt is not the one it was given; ours starts at
    gain 0, at the text. The paper feeds V as it is; in units of ρ the network sees the same whatever the backbone's
    embeddings measure.

    Args:
        initial: first V [P, D].
        scale: ρ, RMS of the backbone's embedded tokens.
        bottleneck: m, width of the network.
        generator: for its weights.

    >>> ResidualPrompt(torch.ones(20, 64), 1.0, 32, torch.Generator()).materialize()["input"].shape
    torch.Size([20, 64])
    """

    name: Final = "residual"

    def __init__(self, initial: Float[Tensor, "P D"], scale: float, bottleneck: int, generator: Generator) -> None:
        super().__init__()
        self._scale = scale
        width = initial.shape[1]
        self.virtual_tokens = nn.Parameter(initial.clone())
        self.network = Perceptron(width, bottleneck, width, generator, silent=False)
        self.gain = nn.Parameter(torch.zeros(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def materialize(self) -> Mapping[str, Tensor]:
        """Return the tokens and what the network adds to them."""
        out = self.network(self.virtual_tokens / self._scale)
        return {"input": self.virtual_tokens + self._scale * F.layer_norm(out, out.shape[-1:], self.gain, self.shift)}

    def groups(self) -> Sequence[Group]:
        """Return the tokens at the scale of the embeddings, the LayerNorm in units of it, and the network."""
        return (
            Group((self.virtual_tokens,), self._scale),
            Group((self.gain, self.shift), 1.0),
            *self.network.groups(),
        )


def from_spec(spec: Spec) -> ResidualPrompt:
    """Build from a spec; setting `bottleneck`: m, by default 128 (the paper's 800 suits wider backbones)."""
    settings = spec.read(ResidualPrompt.name, bottleneck=128)
    return ResidualPrompt(spec.rows(ResidualPrompt.name), spec.rms, settings["bottleneck"], spec.generator)

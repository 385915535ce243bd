"""One network that writes the keys and values of every layer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import torch
from torch import Generator, Tensor, nn

from softprompt.prompts.parameterizations.base import Group, PromptParameterization
from softprompt.prompts.parameterizations.layered import LayeredStart
from softprompt.prompts.parameterizations.perceptron import Perceptron
from softprompt.prompts.parameterizations.spec import Spec
from softprompt.shapes import Float


class DeepMlpPrompt(PromptParameterization):
    """KV = KV₀ + σ ∘ (W₂ tanh(W₁ E + b₁) + b₂): prefix tuning with its network (Li & Liang 2021, arXiv 2101.00190).

    E [P - f, m] is random and trained with the network, which writes the keys and values of all layers that train, O
    numbers a token; f tokens are frozen; σ is the RMS of each tensor's first values. (P - f)·m + m² + m + m·O + O
    parameters, where O is the sum of 2·H·K over the layers that train.

    In the paper the output alone is the prefix; ours is added to the tensors it is given and starts at zero. The
    paper's E is as wide as the backbone; ours is as wide as the network.

    Args:
        initial: first `layers.N.key` and `layers.N.value` [H, P, K] of every layer.
        hidden: m, width of the network.
        generator: for E and the network's weights.
        layers: the layers that train, the others stay as they are; None: all.
        frozen: f, how many of the first virtual tokens stay as they are.

    Raises:
        ConfigError: as for `DeepPrompt`.

    >>> start = {"layers.0.key": torch.ones(1, 20, 8), "layers.0.value": torch.ones(1, 20, 8)}
    >>> DeepMlpPrompt(start, 32, torch.Generator()).materialize()["layers.0.value"].shape
    torch.Size([1, 20, 8])
    """

    name: Final = "deep-mlp"

    def __init__(
        self,
        initial: Mapping[str, Tensor],
        hidden: int,
        generator: Generator,
        layers: Collection[int] | None = None,
        frozen: int = 0,
    ) -> None:
        super().__init__()
        self.start = LayeredStart(initial, layers, frozen)
        tails = [self.start.tail(site) for site in self.start.trained]
        self._widths = [tail.shape[0] * tail.shape[2] for tail in tails]
        self.embedding = nn.Parameter(torch.randn(tails[0].shape[1], hidden, generator=generator))
        self.network = Perceptron(hidden, hidden, sum(self._widths), generator, bend="tanh")

    def materialize(self) -> Mapping[str, Tensor]:
        """Return the keys and values of every layer: the first ones and what the network adds to them."""
        written = self.network(self.embedding).split(self._widths, dim=1)
        tails = {site: self._moved(site, part) for site, part in zip(self.start.trained, written, strict=True)}
        return self.start.join(tails)

    def groups(self) -> Sequence[Group]:
        """Return the network's input, which has unit size, and the network."""
        return (Group((self.embedding,), 1.0), *self.network.groups())

    def _moved(self, site: str, written: Float[Tensor, "T HK"]) -> Float[Tensor, "H T K"]:
        tail = self.start.tail(site)
        heads, _, size = tail.shape
        moved: Tensor = written.unflatten(1, (heads, size)).transpose(0, 1)
        return tail + self.start.scales[site] * moved


def from_spec(spec: Spec) -> DeepMlpPrompt:
    """Build from a spec; settings `hidden` (m, by default 512 as in the paper), `layers` and `frozen` as for `deep`."""
    name = DeepMlpPrompt.name
    settings = spec.read(name, also=("layers",), hidden=512, frozen=0)
    initial, layers = spec.key_values(name), spec.layers(name)
    return DeepMlpPrompt(initial, settings["hidden"], spec.generator, layers, settings["frozen"])

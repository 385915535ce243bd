"""Keys and values in every layer as parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from torch import Tensor, nn

from softprompt.prompts.parameterizations.base import Group, PromptParameterization
from softprompt.prompts.parameterizations.layered import LayeredStart, slot
from softprompt.prompts.parameterizations.spec import Spec


class DeepPrompt(PromptParameterization):
    """Deep prompts: the virtual tokens' keys and values in every layer, as free parameters.

    Prefix tuning (Li & Liang 2021, arXiv 2101.00190) without its network, P-tuning v2 (Liu et al. 2022, arXiv
    2110.07602). 2·H·K·(P - f) parameters for each layer that trains, f tokens being frozen.

    The papers start at random; ours starts at the tensors it is given, for instance the keys and values of a text.
    The rate of each tensor is relative to the RMS of its own first values, since keys, values and layers differ in
    size by orders of magnitude. Frozen tokens are no parameters, so that weight decay leaves them alone too; the first
    token is where much of the attention goes that has nowhere to go, and moving it disturbs every layer above.

    Args:
        initial: first `layers.N.key` and `layers.N.value` [H, P, K] of every layer.
        layers: the layers that train, the others stay as they are; None: all.
        frozen: how many of the first virtual tokens stay as they are.

    Raises:
        ConfigError: keys and values that do not fit each other, a layer that is not there, no token left to train, or
            a layer whose values are all zero.

    >>> import torch
    >>> start = {"layers.0.key": torch.ones(1, 20, 8), "layers.0.value": torch.ones(1, 20, 8)}
    >>> sum(p.numel() for p in DeepPrompt(start, frozen=1).parameters())
    304
    """

    name: Final = "deep"

    def __init__(self, initial: Mapping[str, Tensor], layers: Collection[int] | None = None, frozen: int = 0) -> None:
        super().__init__()
        self.start = LayeredStart(initial, layers, frozen)
        self.free = nn.ParameterDict({slot(s): nn.Parameter(self.start.tail(s).clone()) for s in self.start.trained})

    def materialize(self) -> Mapping[str, Tensor]:
        """Return the keys and values of every layer, those that do not train included."""
        return self.start.join({site: self.free[slot(site)] for site in self.start.trained})

    def groups(self) -> Sequence[Group]:
        """Return each tensor at the RMS of its own first values."""
        return tuple(Group((self.free[slot(site)],), self.start.scales[site]) for site in self.start.trained)


def from_spec(spec: Spec) -> DeepPrompt:
    """Build from a spec; settings `layers` (such as `0-3,7`; by default all) and `frozen` (by default 0)."""
    name = DeepPrompt.name
    settings = spec.read(name, also=("layers",), frozen=0)
    return DeepPrompt(spec.key_values(name), spec.layers(name), settings["frozen"])

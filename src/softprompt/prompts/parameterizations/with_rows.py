"""A prompt that trains together with a light head: one learned row for each label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from softprompt.errors import ConfigError
from softprompt.prompts.parameterizations.base import Group, PromptParameterization
from softprompt.shapes import Float

SHARE = 0.1
"""The rows' rate beside the prompt's: they fit the training rows at once, and the prompt has the longer way."""


class PromptWithRows(PromptParameterization):
    """Any prompt and learned rows: label c scores `weight[c] · h + bias[c]`, where h is the state that is read out.

    C·D + C parameters on top of the prompt's. The weight's rate is a tenth of what the prompt's would be at its size,
    unless told. The bias is in nats, whatever the backbone; at scale 1 the usual rate moves it by 0.02 nats a step,
    less than the rows move a score, and far enough in a run to learn how common each label is.

    Args:
        prompt: what makes the virtual tokens.
        weight: first rows [C, D], for instance the mean output rows of each label's words.
        bias: first biases [C].
        share: the weight's rate beside the prompt's; 1 where the first rows stand for nothing yet.

    Raises:
        ConfigError: weight and bias have different numbers of labels, or the weight is zero everywhere and has no
            scale.

    >>> from softprompt.prompts.parameterizations.direct import DirectPrompt
    >>> rows = PromptWithRows(DirectPrompt(torch.zeros(4, 8)), torch.ones(3, 8), torch.zeros(3))
    >>> sorted(rows.materialize()), rows.name
    (['input', 'readout.bias', 'readout.weight'], 'direct + rows')
    """

    def __init__(
        self,
        prompt: PromptParameterization,
        weight: Float[Tensor, "C D"],
        bias: Float[Tensor, " labels"],
        share: float = SHARE,
    ) -> None:
        super().__init__()
        if len(weight) != len(bias):
            raise ConfigError(f"{len(weight)} learned rows came with {len(bias)} biases; each label needs one of each")
        self._scale = share * float(weight.detach().float().pow(2).mean().sqrt())
        if not self._scale > 0:
            raise ConfigError("the learned rows are zero everywhere, so that their rate would be; start them at words")
        self.name = f"{prompt.name} + rows"
        self.prompt = prompt
        self.weight = nn.Parameter(weight.detach().to(torch.float32).clone())
        self.bias = nn.Parameter(bias.detach().to(torch.float32).clone())

    def materialize(self) -> Mapping[str, Tensor]:
        """Return the prompt's tensors and the rows."""
        return {**self.prompt.materialize(), "readout.weight": self.weight, "readout.bias": self.bias}

    def groups(self) -> Sequence[Group]:
        """Return the prompt's groups, the weight and the bias."""
        return (*self.prompt.groups(), Group((self.weight,), self._scale), Group((self.bias,), 1.0))

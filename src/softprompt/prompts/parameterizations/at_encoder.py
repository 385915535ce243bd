"""Rows that go to the encoder of an encoder-decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from softprompt.prompts.parameterizations.base import Group, PromptParameterization


class AtEncoder(PromptParameterization):
    """Any prompt of input rows, put at the input of an encoder-decoder's encoder (Lester et al. 2021, 2104.08691).

    No parameters of its own: what trains is the prompt inside, and the rows get another site.

    Args:
        prompt: what makes the virtual tokens.

    >>> import torch
    >>> from softprompt.prompts.parameterizations.direct import DirectPrompt
    >>> sorted(AtEncoder(DirectPrompt(torch.zeros(4, 8))).materialize())
    ['encoder.input']
    """

    def __init__(self, prompt: PromptParameterization) -> None:
        super().__init__()
        self.name = prompt.name
        self.prompt = prompt

    def materialize(self) -> Mapping[str, Tensor]:
        """Return the prompt's tensors, its rows at `encoder.input`."""
        return {"encoder.input" if site == "input" else site: t for site, t in self.prompt.materialize().items()}

    def groups(self) -> Sequence[Group]:
        """Return the prompt's groups."""
        return self.prompt.groups()

"""The virtual tokens themselves as parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from softprompt.prompts.parameterizations.base import Group, PromptParameterization
from softprompt.prompts.parameterizations.spec import Spec
from softprompt.shapes import Float


class DirectPrompt(PromptParameterization):
    """Prompt tuning as first described: P free vectors, P·D parameters (Lester et al. 2021, arXiv 2104.08691).

    Args:
        initial: first values [P, D]; copied, kept in fp32 whatever the backbone computes in.
        scale: RMS of the backbone's embedded tokens, the unit of the learning rate.

    >>> DirectPrompt(torch.zeros(20, 640)).materialize()["input"].shape
    torch.Size([20, 640])
    """

    name: Final = "direct"

    def __init__(self, initial: Float[Tensor, "P D"], scale: float = 1.0) -> None:
        super().__init__()
        self._scale = scale
        self.virtual_tokens = nn.Parameter(initial.detach().to(torch.float32).clone())

    def materialize(self) -> Mapping[str, Tensor]:
        """Return the virtual tokens as they are."""
        return {"input": self.virtual_tokens}

    def groups(self) -> Sequence[Group]:
        """Return the virtual tokens, at the scale of the embeddings."""
        return (Group((self.virtual_tokens,), self._scale),)


def from_spec(spec: Spec) -> DirectPrompt:
    """Build from a spec; no settings."""
    spec.read(DirectPrompt.name)
    return DirectPrompt(spec.rows(DirectPrompt.name), spec.rms)

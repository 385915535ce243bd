"""The virtual tokens themselves as parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from softprompt.prompts.parameterizations.base import PromptParameterization
from softprompt.shapes import Float


class DirectPrompt(PromptParameterization):
    """Prompt tuning as first described: P free vectors, P·D parameters (Lester et al. 2021, arXiv 2104.08691).

    Args:
        initial: first values [P, D]; copied, kept in fp32 whatever the backbone computes in.

    >>> DirectPrompt(torch.zeros(20, 640)).materialize()["input"].shape
    torch.Size([20, 640])
    """

    name: Final = "direct"

    def __init__(self, initial: Float[Tensor, "P D"]) -> None:
        super().__init__()
        self.virtual_tokens = nn.Parameter(initial.detach().to(torch.float32).clone())

    def materialize(self) -> Mapping[str, Tensor]:
        """Return the virtual tokens as they are."""
        return {"input": self.virtual_tokens}

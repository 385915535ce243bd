"""The contract of everything that trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn


class PromptParameterization(nn.Module, ABC):
    """A trainable module that folds into virtual tokens.

    It lives only while training. Its parameters are fp32; `materialize` is differentiable in all of them and
    gives the tensors of a `SoftPrompt` by site, so that what is kept never knows how it was trained.
    """

    name: str

    @abstractmethod
    def materialize(self) -> Mapping[str, Tensor]:
        """Return the prompt's tensors by site, `input` being the virtual tokens [P, D] in fp32."""

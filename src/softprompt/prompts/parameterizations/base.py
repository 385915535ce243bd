"""The contract of everything that trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn


class Group(NamedTuple):
    """Parameters that share a learning rate.

    AdamW moves every entry by about its rate, whatever the size of the gradient; so the rate has the unit of the
    parameter, and each kind of parameter needs its own. The scale carries that unit.

    Attributes:
        parameters: at least one.
        scale: above 0; AdamW's rate of these is the relative rate (`TrainConfig.learning_rate`) times this.
    """

    parameters: tuple[nn.Parameter, ...]
    scale: float


class PromptParameterization(nn.Module, ABC):
    """A trainable module that folds into plain tensors.

    It lives only while training. Its parameters are fp32; `materialize` is differentiable in all of them and
    gives the tensors of a `SoftPrompt` by site, so that what is kept never knows how it was trained.
    `softprompt.testing.contract` holds the checks that every one passes.
    """

    name: str

    @abstractmethod
    def materialize(self) -> Mapping[str, Tensor]:
        """Return the prompt's tensors by site, fp32, the same ones each time until a parameter changes.

        Rows at the input stand at `input` [P, D], the keys and values of layer N at `layers.N.key` and
        `layers.N.value` [H, P, K].
        """

    @abstractmethod
    def groups(self) -> Sequence[Group]:
        """Return every trainable parameter in exactly one group.

        The scales are fixed when the module is built, so that a resumed run has the rates of the first one. They
        are chosen so that one relative rate moves the materialized tensors about as fast in every
        parameterization: 0.02 moves a free virtual token by two hundredths of its RMS a step.
        """

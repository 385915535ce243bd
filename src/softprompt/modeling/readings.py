"""What a readout becomes on one backbone: how hidden states turn into log-probabilities of answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from softprompt.shapes import Float

GoOn = Callable[[Sequence[tuple[int, ...]]], Tensor]
"""Goes on from M rows with each of Q token sequences: hidden states [Q, M, T, D] behind every row."""


@runtime_checkable
class Reading(Protocol):
    """Reads answers out of hidden states; the same in training and in use."""

    @property
    def choices(self) -> int:
        """How many answers there are, C."""
        ...

    @property
    def depth(self) -> int:
        """Most tokens that reading ever puts behind a row."""
        ...

    def behind(self, gold: int) -> tuple[int, ...]:
        """Return the tokens that ride behind a row while its gold answer is learned."""
        ...

    def gold_log_probabilities(
        self, hidden: Float[Tensor, "B T D"], ends: Sequence[int], gold: Sequence[int]
    ) -> Float[Tensor, " B"]:
        """Return the log-probability of each row's gold answer; `ends` is the column of each row's last own token."""
        ...

    def log_probabilities(self, last: Float[Tensor, "M D"], go_on: GoOn) -> Float[Tensor, "M C"]:
        """Return the log-probabilities of all answers, given the state at the end of each row."""
        ...

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Reading:
        """Return the same reading with other learned tensors, as at each step of training."""
        ...


@dataclass(frozen=True, eq=False)
class RowsReading:
    """Learned rows: log softmax(W h + b) over the answers, from the state at the end of the row.

    The method's optional light head. Whatever the answers' words are, one pass reads all of them.

    Attributes:
        weight: W, [C, D] in fp32.
        bias: b, [C] in fp32.
    """

    weight: Float[Tensor, "C D"]
    bias: Float[Tensor, " C"]
    depth: int = 0

    @property
    def choices(self) -> int:
        """How many answers there are, C."""
        return int(self.weight.shape[0])

    def behind(self, gold: int) -> tuple[int, ...]:
        """Return nothing: the state at the end of the row says it all."""
        return ()

    def gold_log_probabilities(
        self, hidden: Float[Tensor, "B T D"], ends: Sequence[int], gold: Sequence[int]
    ) -> Float[Tensor, " B"]:
        """Return the log-probability of each row's gold answer."""
        rows = torch.arange(len(gold), device=hidden.device)
        last = hidden[rows, torch.tensor(ends, device=hidden.device)]
        return self._read(last)[rows, torch.tensor(gold, device=hidden.device)]

    def log_probabilities(self, last: Float[Tensor, "M D"], go_on: GoOn) -> Float[Tensor, "M C"]:
        """Return the log-probabilities of all answers."""
        return self._read(last)

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> RowsReading:
        """Return a reading by the rows among `tensors`."""
        return RowsReading(tensors["readout.weight"], tensors["readout.bias"])

    def _read(self, states: Float[Tensor, "M D"]) -> Float[Tensor, "M C"]:
        return torch.log_softmax(states.float() @ self.weight.T + self.bias, dim=-1)

"""Data parallel: each process learns from its share of every step's rows, and only the prompts' gradients cross.

The share is a pure function of the step's rows, the rank and the number of processes. Losses and gradients are summed,
so that all processes take the same step; what is decided (validation, a race, a stop) is decided by the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from softprompt.backbones.processes import join
from softprompt.modeling.layout import least_work, longest_first
from softprompt.shapes import Float


class Learned(NamedTuple):
    """The loss of one prompt in one step, and its gradient by site."""

    loss: Float[Tensor, ""]
    gradient: Mapping[str, Tensor]


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: which one this is; the first, 0, writes files and speaks.
        size: how many there are.
        lockstep: all must make the same passes, for they gather the backbone's weights together.
    """

    rank: int = 0
    size: int = 1
    lockstep: bool = False

    @classmethod
    def here(cls, *, lockstep: bool = False) -> World:
        """Return the processes that this one was started with, met if they have not met yet."""
        place = join()
        return cls(place.rank, place.size, lockstep)

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def passes(self, lengths: Sequence[int], tokens: int, pass_cost: int = 0) -> list[list[int]]:
        """Cut a step's rows into this process's passes: rows of like length, at most `tokens` of them at once.

        Rows are dealt out by length, so that all processes have the same to do. In lockstep all make equally many
        passes; one that has no rows left makes them empty.

        Args:
            lengths: of the step's rows, in tokens.
            tokens: in one pass, padding counted.
            pass_cost: tokens that take as long as a pass takes beside them, so that passes are cut where padding takes
                longer; 0: padding takes nothing.

        >>> World(0, 2).passes([5, 9, 7], 100), World(1, 2).passes([5, 9, 7], 100)
        ([[1, 0]], [[2]])
        """
        order = longest_first(lengths)

        def cut(rank: int) -> list[list[int]]:
            dealt = order[rank :: self.size]
            return [[dealt[j] for j in part] for part in least_work([lengths[i] for i in dealt], tokens, pass_cost)]

        own = cut(self.rank)
        missing = max(len(cut(rank)) for rank in range(self.size)) - len(own) if self.lockstep else 0
        return own + [[] for _ in range(missing)]

    def total(self, learned: Sequence[Learned]) -> list[Learned]:
        """Return losses and gradients summed over the processes; all of them cross as one vector of fp32."""
        if self.size == 1:
            return list(learned)
        parts = [part for each in learned for part in (each.loss, *each.gradient.values())]
        vector = torch.cat([part.detach().to("cpu", torch.float32).reshape(-1) for part in parts])
        dist.all_reduce(vector)
        sums = iter(vector.split([part.numel() for part in parts]))
        return [
            Learned(next(sums).reshape(()), {site: _like(old, next(sums)) for site, old in each.gradient.items()})
            for each in learned
        ]

    def crossing(self, learned: Sequence[Learned]) -> int:
        """Return the bytes that each process sends to the sum of one step."""
        numbers = sum(1 + sum(part.numel() for part in each.gradient.values()) for each in learned)
        return 4 * numbers if self.size > 1 else 0

    def any(self, flag: bool) -> bool:
        """Tell whether any process says so."""
        if self.size == 1:
            return flag
        found = torch.tensor([float(flag)])
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found.item())

    def agreed(self, value: float) -> float:
        """Return what the first process holds."""
        return float(self.spread({"value": torch.tensor(value, dtype=torch.float64)})["value"])

    def spread(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the first process's tensors, of the same names and shapes everywhere."""
        if self.size == 1:
            return dict(tensors)
        out = {}
        for name, tensor in tensors.items():
            copy = tensor.detach().cpu().clone().contiguous()
            dist.broadcast(copy, 0)
            out[name] = copy.to(tensor.device)
        return out


ALONE = World()
"""One process that does everything."""


def _like(old: Tensor, new: Tensor) -> Tensor:
    return new.reshape(old.shape).to(old.device, old.dtype)

"""AdamW in fp32 for weights of any precision, and the best state that they have been in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from softprompt.training.checkpoints import optimizer_tensors, restore_optimizer

CLIP = 1.0
"""The largest norm of the gradient."""


class Masters:
    """AdamW in fp32: a parameter of lower precision gets a master copy, from which it is rounded after each step.

    In bf16 a step of the size that weights are tuned by is lost in rounding. No weight decay: a row of a table that
    gets no gradient never moves.

    Args:
        groups: what trains, as AdamW takes it, each group with its `lr`.
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]]) -> None:
        self._groups = groups
        self._own: list[Tensor] = [parameter for group in groups for parameter in group["params"]]
        self._masters = [own.detach() if own.dtype == torch.float32 else own.detach().float() for own in self._own]
        self._kept: list[Tensor] = []
        self._begin()

    @property
    def shapes(self) -> list[list[int]]:
        """The shape of each tensor that is trained."""
        return [[*master.shape] for master in self._masters]

    @property
    def has_kept(self) -> bool:
        """Whether a best state is kept."""
        return bool(self._kept)

    def step(self, share: float) -> None:
        """Take one step at a share of each group's rate, the gradient's norm clipped."""
        for own, master in zip(self._own, self._masters, strict=True):
            master.grad = None if own.grad is None else own.grad.float()
            own.grad = None
        torch.nn.utils.clip_grad_norm_(self._masters, CLIP)
        for group, rate in zip(self._adam.param_groups, self._rates, strict=True):
            group["lr"] = rate * share
        self._adam.step()
        self.forget_gradients()
        self._round()

    def forget_gradients(self) -> None:
        """Let go of what was gathered for a step."""
        for tensor in (*self._own, *self._masters):
            tensor.grad = None

    def keep(self) -> None:
        """Keep the present state as the best."""
        if not self._kept:
            self._kept = [master.clone() for master in self._masters]
        for kept, master in zip(self._kept, self._masters, strict=True):
            kept.copy_(master)

    def restore(self) -> None:
        """Put the best state back."""
        for master, kept in zip(self._masters, self._kept, strict=True):
            master.copy_(kept)
        self._round()

    def go_back(self) -> None:
        """Put the best state back, with a fresh optimizer."""
        self.restore()
        self._begin()

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that a training needs to go on: masters, best state and optimizer state, by name."""
        masters = {f"master.{place}": tensor for place, tensor in enumerate(self._masters)}
        kept = {f"kept.{place}": tensor for place, tensor in enumerate(self._kept)}
        return {**masters, **kept, **optimizer_tensors(self._adam)}

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` gave."""
        for place, master in enumerate(self._masters):
            master.copy_(tensors[f"kept.{place}"])
        self.keep()
        for place, master in enumerate(self._masters):
            master.copy_(tensors[f"master.{place}"])
        self._round()
        self._begin()
        restore_optimizer(self._adam, tensors)

    def _begin(self) -> None:
        masters = iter(self._masters)
        groups = [{**group, "params": [next(masters) for _ in group["params"]]} for group in self._groups]
        self._rates = [float(group["lr"]) for group in groups]
        self._adam = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)

    @torch.no_grad()
    def _round(self) -> None:
        for own, master in zip(self._own, self._masters, strict=True):
            if own.dtype != torch.float32:
                own.copy_(master)

"""A backbone that does not fit on one device: its frozen layers lie in shards over the processes (FSDP2).

Zhao et al. 2023, arXiv 2304.11277, in torch's `fully_shard`. Only the layers are sharded, which in a large model are
nearly all of it: token embeddings, norms and output rows are read outside the layers and stay whole everywhere, as
the prompt does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from softprompt.backbones.caches import KeyValues
from softprompt.backbones.processes import join
from softprompt.backbones.quantised import quantisation_of
from softprompt.errors import ConfigError, UnsupportedBackboneError

T = TypeVar("T")


def in_turn(device: torch.device, load: Callable[[DeviceMesh], T]) -> T:
    """Load in one process after the other, so that a machine never holds two whole copies.

    Args:
        device: where the shards are to lie.
        load: reads the backbone on the CPU and brings it down to this process's shard of the mesh.

    Raises:
        ConfigError: there is only one process.
    """
    here = join()
    if here.size == 1:
        raise ConfigError(
            "shard was asked for, but there is one process only; start several: `accelerate launch -m softprompt …` "
            "on GPUs, or `torchrun --nproc-per-node N -m softprompt …`"
        )
    mesh = init_device_mesh(device.type, (here.size,))
    found: T | None = None
    for turn in range(here.size):
        if turn == here.rank:
            found = load(mesh)
        dist.barrier()
    assert found is not None, "every process has its turn"
    return found


def check_shardable(config: Mapping[str, Any], name: str) -> None:
    """Refuse, before anything is read, what cannot lie in shards.

    Args:
        config: the parsed `config.json`.
        name: what the user called it.

    Raises:
        UnsupportedBackboneError: the weights are quantised.
    """
    method = quantisation_of(config)
    if method is not None:
        raise UnsupportedBackboneError(
            f"the weights of `{name}` are quantised by `{method}` and cannot lie in shards; load it without shard, "
            "whole in each process"
        )


def shard(model: Any, device: torch.device, mesh: DeviceMesh) -> None:
    """Leave this process its share of every layer's weights; they are gathered layer by layer as a pass needs them.

    Args:
        model: a transformers model on the CPU; frozen here.
        device: where it is to compute.
        mesh: the processes, in one row.
    """
    from torch.distributed.fsdp import fully_shard
    from transformers.modeling_layers import GradientCheckpointingLayer

    model.eval().requires_grad_(False)
    for layer in [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]:
        fully_shard(layer, mesh=mesh)
    model.to(device)  # what is not sharded


def is_sharded(model: Any) -> bool:
    """Tell whether a model's layers lie in shards, so that all its processes must make the same passes."""
    if not dist.is_initialized():
        return False
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(module, FSDPModule) for module in model.modules())


def tied(hidden: Tensor, kept: KeyValues) -> KeyValues:
    """Return keys and values whose gradients pass by the last hidden states, with nothing added there.

    FSDP2 gathers a layer's weights when a gradient comes to what the layer returned. Keys and values leave it by the
    side, through the cache; those of the last layer would find its weights away.
    """
    flat = _Tied.apply(hidden, *(tensor for pair in kept for tensor in pair))  # type: ignore[no-untyped-call]
    return list(zip(flat[::2], flat[1::2], strict=True))


class _Tied(torch.autograd.Function):
    """All but the first of its arguments, unchanged; the gradient of the first is zero."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(hidden)
        return tuple(tensor.view_as(tensor) for tensor in others)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return (torch.zeros_like(ctx.saved_tensors[0]), *gradients)

"""A backbone that does not fit on one device: its frozen layers lie in shards over the processes (FSDP2).

Zhao et al. 2023, arXiv 2304.11277, in torch's `fully_shard`. Only the layers are sharded, which in a large model are
nearly all of it: token embeddings, norms and output rows are read outside the layers and stay whole everywhere, as
the prompt does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from softprompt.backbones.caches import KeyValues
from softprompt.backbones.processes import join
from softprompt.errors import ConfigError, UnsupportedBackboneError

T = TypeVar("T")


def one_by_one(load: Callable[[], T], ready: Callable[[T], None]) -> T:
    """Load and make ready in one process after the other, so that a machine never holds two whole copies.

    Args:
        load: reads the backbone on the CPU.
        ready: brings it down to this process's shard.

    Raises:
        ConfigError: there is only one process.
    """
    here = join()
    if here.count == 1:
        raise ConfigError(
            "shard was asked for, but there is one process only: start several, with "
            "`accelerate launch -m softprompt …` or `torchrun --nproc-per-node N -m softprompt …`"
        )
    found: T | None = None
    for turn in range(here.count):
        if turn == here.rank:
            found = load()
            ready(found)
        dist.barrier()
    assert found is not None
    return found


def shard(model: Any, name: str, device: torch.device) -> None:
    """Leave this process its share of every layer's weights; they are gathered layer by layer as a pass needs them.

    Args:
        model: a frozen transformers model on the CPU.
        name: what the user called it.
        device: where it is to compute.

    Raises:
        UnsupportedBackboneError: its weights are quantised, or its rotary factors depend on a row's length.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers.modeling_layers import GradientCheckpointingLayer

    if getattr(model, "hf_quantizer", None) is not None:
        raise UnsupportedBackboneError(
            f"`{name}` has quantised weights, which cannot be sharded: load it without, or in one process"
        )
    model.eval().requires_grad_(False)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    model.to(device)  # what is not sharded


def is_sharded(model: Any) -> bool:
    """Tell whether a model's layers lie in shards, so that all its processes must make the same passes."""
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(module, FSDPModule) for module in model.modules())


def tied(hidden: Tensor, kept: KeyValues) -> KeyValues:
    """Return keys and values whose gradients pass by the last hidden states, with nothing added there.

    FSDP2 gathers a layer's weights when a gradient comes to what the layer returned. Keys and values leave it by the
    side, through the cache; those of the last layer would find its weights away.
    """
    flat = _Tied.apply(hidden, *(tensor for pair in kept for tensor in pair))
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

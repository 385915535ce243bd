"""Several processes that train one prompt together, as `accelerate launch` and `torchrun` start them."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist

from softprompt.errors import ConfigError

_PATIENCE = timedelta(hours=2)
"""How long a process waits for another: one may be reading a large backbone."""


class Place(NamedTuple):
    """Which of some processes this one is.

    Attributes:
        rank: from 0; the first one writes files and speaks.
        size: how many there are.
        local: which of those on this machine it is: the number of its GPU.
    """

    rank: int
    size: int
    local: int


def place() -> Place:
    """Return where this process stands, by what its launcher says; alone where none does.

    Raises:
        ConfigError: the launcher's variables are no numbers.

    >>> place()
    Place(rank=0, size=1, local=0)
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return Place(0, 1, 0)
    found = [os.environ.get(name, "0") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    if not all(text.isdecimal() for text in found):
        raise ConfigError(
            f"RANK, WORLD_SIZE and LOCAL_RANK are {', '.join(found)}, which are no numbers; start several processes "
            "with `accelerate launch` or `torchrun`, or unset them"
        )
    return Place(*map(int, found))


def join() -> Place:
    """Meet the other processes of this run, once; alone there is nobody to meet.

    Small things (gradients of prompts, decisions) cross between CPUs by gloo; the shards of a backbone on GPUs by NCCL.

    Raises:
        ConfigError: the launcher's variables are no numbers.
    """
    here = place()
    if here.size > 1 and not dist.is_initialized():
        gpu = torch.cuda.is_available()
        if gpu:
            torch.cuda.set_device(here.local)
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=_PATIENCE)
    return here


def leave() -> None:
    """Part from the other processes once all are done; alone there is nothing to do."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()

"""Machines by name, and how long a step takes on one: by a roofline over its operators, or each of them measured."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from softprompt.backbones.operators import Spec, Work
from softprompt.backbones.rehearsal import Rehearsal
from softprompt.registry import unknown_name

SHARE = 0.4
"""Of a machine's peak that matrix products reach, where nothing is said: large trainings report 0.3 to 0.5, for
instance 0.46 in Chowdhery et al. 2022, arXiv 2204.02311, table 3."""
_BANDWIDTH_SHARE = 0.7


@dataclass(frozen=True)
class Machine:
    """What a machine can do at best.

    Attributes:
        name: as it is asked for.
        title: as it is read.
        peak: FLOP/s of dense matrix products, in bf16 (fp16 on a T4, fp32 on a laptop's CPU).
        memory: bytes.
        bandwidth: bytes a second from its memory.
        start: seconds until an operator runs, at least: launching it.
        cpu: it is one.
        source: of the figures.
    """

    name: str
    title: str
    peak: float
    memory: float
    bandwidth: float
    start: float = 8e-6
    cpu: bool = False
    source: str = "NVIDIA's data sheet, dense"


MACHINES: Mapping[str, Machine] = MappingProxyType(
    {
        each.name: each
        for each in (
            Machine("t4", "T4, 16 GB (fp16)", 65e12, 16e9, 320e9),
            Machine("l4", "L4, 24 GB", 121e12, 24e9, 300e9),
            Machine("a10g", "A10G, 24 GB", 70e12, 24e9, 600e9),
            Machine("a100-40", "A100, 40 GB", 312e12, 40e9, 1.555e12),
            Machine("a100-80", "A100, 80 GB", 312e12, 80e9, 2.039e12),
            Machine("h100", "H100 SXM, 80 GB", 989e12, 80e9, 3.35e12),
            Machine("h200", "H200 SXM, 141 GB", 989e12, 141e9, 4.8e12),
            Machine(
                "laptop", "a laptop's CPU, 16 GB (fp32)", 768e9, 16e9, 60e9, 4e-6, True,
                "8 cores at 3 GHz with AVX2: 32 operations a cycle; two channels of DDR5",
            ),
        )
    }
)  # fmt: skip
"""Machines by name."""


def machine(name: str) -> Machine:
    """Return a machine by name.

    Raises:
        UnknownNameError: there is none of that name; the nearest is offered.
    """
    known = name.lower()
    if known not in MACHINES:
        raise unknown_name("machine", name, MACHINES)
    return MACHINES[known]


def seconds_on(on: Machine, rehearsal: Rehearsal, share: float = SHARE) -> float:
    """Return the time of a step by a roofline: an operator computes, moves bytes or is launched, the longest counts.

    t = Σ calls · max(flops / (share · peak), bytes / (0.7 · bandwidth), start), after Williams et al. 2009
    (doi 10.1145/1498765.1498785).

    Args:
        on: the machine.
        rehearsal: the step's operators.
        share: of its peak that matrix products reach, in (0, 1].
    """
    return sum(work.calls * _one(on, work, share) for work in rehearsal.work)


def _one(on: Machine, work: Work, share: float) -> float:
    return max(work.flops / (share * on.peak), work.moved / (_BANDWIDTH_SHARE * on.bandwidth), on.start)


@dataclass(frozen=True)
class Measured:
    """What this machine takes for a step, from each of its operators alone on tensors of the same shapes.

    Attributes:
        seconds: of the step.
        products: of these, in matrix products.
        rest: in all other operators.
        framework: between operators: modules, autograd, Python.
        rate: FLOP/s of the matrix products.
    """

    seconds: float
    products: float
    rest: float
    framework: float
    rate: float


def measured_here(rehearsal: Rehearsal, *, repeats: int = 3) -> Measured:
    """Time every operator of a step on this machine, with numbers drawn at random; a few seconds for a whole step.

    Args:
        rehearsal: the step's operators.
        repeats: timings of each, of which the median counts.
    """
    times = {work.key: _timed(work, repeats) for work in rehearsal.work}
    products = sum(work.calls * times[work.key] for work in rehearsal.work if work.flops)
    rest = sum(work.calls * times[work.key] for work in rehearsal.work if not work.flops)
    framework = rehearsal.calls * _between_operators(repeats)
    rate = rehearsal.flops / products if products else 0.0
    return Measured(products + rest + framework, products, rest, framework, rate)


def _timed(work: Work, repeats: int) -> float:
    """Seconds of one call; a kernel may want in bf16 what the meta device keeps in fp32: means of a norm, for one."""
    try:
        return _called_for(work, repeats)
    except RuntimeError:
        dtypes = [leaf.dtype for leaf in _leaves(work) if leaf.dtype.is_floating_point]
        alike = tree_map(
            lambda leaf: leaf._replace(dtype=dtypes[0]) if isinstance(leaf, Spec) and leaf.dtype in dtypes else leaf,
            work.arguments,
            is_leaf=lambda leaf: isinstance(leaf, Spec),
        )
        return _called_for(replace(work, arguments=alike), repeats)


def _leaves(work: Work) -> list[Spec]:
    leaves = tree_leaves(work.arguments, is_leaf=lambda leaf: isinstance(leaf, Spec))
    return [leaf for leaf in leaves if isinstance(leaf, Spec)]


def _called_for(work: Work, repeats: int) -> float:
    """Seconds of one call; tensors are made anew for each, as a step has its own for each."""
    taken = []
    with torch.no_grad():
        for number in range(repeats + 1):
            args, kwargs = tree_map(_made, work.arguments, is_leaf=lambda leaf: isinstance(leaf, Spec))
            began = time.perf_counter()
            out = work.operator(*args, **kwargs)
            elapsed = time.perf_counter() - began
            del out
            if number or elapsed > 1.0:  # the first call of a shape sets libraries up
                taken.append(elapsed)
            if elapsed > 1.0:
                break
    return median(taken)


def _made(leaf: Any) -> Any:
    """A tensor of a shape and layout, or what stands beside tensors; nothing lies on the meta device here."""
    if isinstance(leaf, torch.device):
        return torch.device("cpu")
    if not isinstance(leaf, Spec):
        return leaf
    length = 1 + sum((n - 1) * stride for n, stride in zip(leaf.shape, leaf.stride, strict=True))
    flat = torch.zeros(max(length, 1), dtype=leaf.dtype)
    if leaf.dtype.is_floating_point:
        flat.normal_()
    return flat.as_strided(leaf.shape, leaf.stride) if 0 not in leaf.shape else flat.new_empty(leaf.shape)


def _between_operators(repeats: int) -> float:
    """Seconds an operator that modules, autograd and Python take: those of small layers, forward and back."""
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU()) for _ in range(40)))
    layers.requires_grad_(False)
    row = torch.zeros(1, 8, requires_grad=True)
    whole = median(_passed(layers, row) for _ in range(5 * repeats))
    operators: Sequence[tuple[Any, tuple[Any, ...]]] = (
        (torch.ops.aten.addmm.default, (torch.zeros(8), torch.zeros(1, 8), torch.zeros(8, 8))),
        (torch.ops.aten.gelu.default, (torch.zeros(1, 8),)),
    )
    alone = median(_called(operator, given) for operator, given in operators for _ in range(5 * repeats))
    return max(0.0, whole / (40 * 6) - alone)


def _passed(layers: nn.Module, row: Tensor) -> float:
    began = time.perf_counter()
    with torch.enable_grad():
        layers(row).sum().backward()
    return time.perf_counter() - began


def _called(operator: Any, given: tuple[Any, ...]) -> float:
    began = time.perf_counter()
    for _ in range(20):
        operator(*given)
    return (time.perf_counter() - began) / 20

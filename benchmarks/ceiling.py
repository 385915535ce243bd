"""How much of the machine a training step uses: needed arithmetic over the best matrix product of the same run."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import linear

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone

SHAPES = ((4096, 4096, 4096), (2048, 2048, 2048), (1024, 1024, 8192), (800, 640, 2048), (800, 2048, 640))
OPERATORS = 14


def matmul_parameters(backbone: Backbone) -> int:
    """Weights that every token is multiplied with: those of the linear layers, no embedding and no head."""
    layers = (m.weight for m in backbone.model.base_model.modules() if type(m).__name__ in ("Linear", "Conv1D"))
    return sum(weight.numel() for weight in layers)


def needed_flops(parameters: int, tokens: int) -> int:
    """Forward and input gradient: one multiply-add each for every weight and token; attention scores not counted."""
    return 2 * 2 * parameters * tokens


def best_gemm(dtype: torch.dtype, repeats: int) -> float:
    """The best rate of a matrix product in FLOP/s: the highest over the shapes of each shape's median."""
    return max(_gemm(shape, dtype, repeats) for shape in SHAPES)


def _gemm(shape: tuple[int, int, int], dtype: torch.dtype, repeats: int) -> float:
    M, K, N = shape
    left, right = torch.randn(M, K).to(dtype), torch.randn(N, K).to(dtype)
    linear(left, right)
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        linear(left, right)
        seconds.append(time.perf_counter() - began)
    return 2 * M * K * N / statistics.median(seconds)


def top_operators(step: Any, number: int) -> list[tuple[str, float]]:
    """The operators that take most of one step: name, and share of the step's own CPU time."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step(number)
    events = seen.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    ranked = sorted(events, key=lambda event: -event.self_cpu_time_total)[:OPERATORS]
    return [(event.key, event.self_cpu_time_total / total) for event in ranked]

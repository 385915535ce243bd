"""Training steps with compiled layers and without; each case runs in a process of its own."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from ceiling import top_operators
from rounds import turn_by_turn
from sides import Ours
from subjects import Setting, backbone_of, task_of
from torch import nn

from softprompt.backbones.backbone import Backbone
from softprompt.backbones.compiling import compiled


def eager(virtual_tokens: int, steps: int, **setting: Any) -> dict[str, Any]:
    """Seconds of eager training steps, and where one of them goes."""
    chosen = Setting(**setting)
    ours = Ours(backbone_of(chosen), task_of(chosen), virtual_tokens)
    seconds = turn_by_turn({"eager": ours.step}, rounds=steps, steps=1, warmup=2)
    return {"seconds": seconds["eager"], "operators": top_operators(ours.step, 2 + steps)}


def layers(virtual_tokens: int, steps: int, cache: str, **setting: Any) -> dict[str, Any]:
    """Eager and compiled steps turn by turn, and the seconds that compiling took, the first step's work included."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    chosen = Setting(**setting)
    backbone = backbone_of(chosen)
    ours = Ours(backbone, task_of(chosen), virtual_tokens)
    for number in range(2):
        ours.step(number)
    began = time.perf_counter()
    with _switched(backbone, lambda: ours.step(2)) as switch:
        compiling = time.perf_counter() - began
        sides = {"eager": ours.step, "compiled": lambda number: switch.on(ours.step, number)}
        seconds = turn_by_turn(sides, rounds=steps, steps=1, warmup=2)
    return {
        "layers": len(switch), "seconds": seconds, "compiling": compiling - statistics.median(seconds["compiled"]),
        "graphs": int(torch._dynamo.utils.counters["stats"]["unique_graphs"]),
        "breaks": sum(torch._dynamo.utils.counters["graph_break"].values()),
    }  # fmt: skip


class Switch:
    """Layers whose forward is compiled while a function runs, and eager otherwise."""

    def __init__(self, made: dict[nn.Module, Any]) -> None:
        self._made = made

    def __len__(self) -> int:
        return len(self._made)

    def on(self, function: Callable[[int], object], number: int) -> None:
        try:
            for module, fast in self._made.items():
                module.forward = fast
            function(number)
        finally:
            for module in self._made:
                del module.forward


@contextmanager
def _switched(backbone: Backbone, warm_up: Callable[[], object]) -> Iterator[Switch]:
    """The layers, compiled as the trainer compiles them, and switched off."""
    with compiled(backbone, warm_up) as able:
        if not able:
            raise RuntimeError("the layers could not be compiled")
        made = {module: vars(module).pop("forward") for module in backbone.model.modules() if "forward" in vars(module)}
        yield Switch(made)

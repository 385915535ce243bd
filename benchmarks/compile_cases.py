"""`torch.compile` on parts of the frozen transformer; each case runs in a process of its own."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from ceiling import top_operators
from rounds import turn_by_turn
from sides import Ours
from subjects import Setting, backbone_of, task_of
from torch import nn

from softprompt.backbones.backbone import Backbone
from softprompt.backbones.compiling import compiled as layers_compiled


def eager(virtual_tokens: int, steps: int, **setting: Any) -> dict[str, Any]:
    """Seconds of eager training steps, and where one of them goes."""
    chosen = Setting(**setting)
    ours = Ours(backbone_of(chosen), task_of(chosen), virtual_tokens)
    seconds = turn_by_turn({"eager": ours.step}, rounds=steps, steps=1, warmup=2)
    return {"seconds": seconds["eager"], "operators": top_operators(ours.step, 2 + steps)}


def compiled(part: str, virtual_tokens: int, steps: int, cache: str, **setting: Any) -> dict[str, Any]:
    """Eager and compiled steps turn by turn, and what compiling took: the first steps beyond an eager step's time."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    chosen = Setting(**setting)
    backbone = backbone_of(chosen)
    modules = list(modules_of(part, backbone.model.base_model))
    if not modules:
        return {"failed": f"this backbone has no {part}"}
    ours = Ours(backbone, task_of(chosen), virtual_tokens)
    for number in range(2):
        ours.step(number)
    began = time.perf_counter()
    ours.step(2)
    usual = time.perf_counter() - began
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 4 * len(modules)
    with ExitStack() as stack:
        try:
            began = time.perf_counter()
            switch = stack.enter_context(_layers(backbone, ours) if part == "layers" else nullcontext(_each(modules)))
            warming = [time.perf_counter() - began]
            warming += [_timed(lambda n=number: switch.on(ours.step, n)) for number in range(3, 3 + steps)]
        except Exception as error:  # noqa: BLE001  what the compiler raises is a finding
            return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
        # The same batches again: what is new to the compiler has been seen.
        sides = {"eager": ours.step, "compiled": lambda number: switch.on(ours.step, number)}
        seconds = turn_by_turn(sides, rounds=steps - 1, steps=1, warmup=4)
    return {
        "modules": len(modules), "usual": usual, "first steps": warming, "seconds": seconds,
        "compiling": sum(warming) - steps * statistics.median(seconds["compiled"]),
        "graphs": int(torch._dynamo.utils.counters["stats"]["unique_graphs"]),
        "breaks": sum(torch._dynamo.utils.counters["graph_break"].values()),
    }  # fmt: skip


class Switch:
    """Modules whose forward is compiled while a function runs, and eager otherwise."""

    def __init__(self, made: dict[nn.Module, Any]) -> None:
        self._made = made

    def on(self, function: Callable[[int], object], number: int) -> None:
        try:
            for module, fast in self._made.items():
                module.forward = fast
            function(number)
        finally:
            for module in self._made:
                del module.forward


def _each(modules: list[nn.Module]) -> Switch:
    """Every module compiled by itself."""
    return Switch({module: torch.compile(module.forward, dynamic=True) for module in modules})


@contextmanager
def _layers(backbone: Backbone, ours: Ours) -> Iterator[Switch]:
    """The layers, as the trainer compiles them."""
    with layers_compiled(backbone, lambda: ours.step(2)) as able:
        if not able:
            raise RuntimeError("the layers could not be compiled")
        made = {module: vars(module).pop("forward") for module in backbone.model.modules() if "forward" in vars(module)}
        yield Switch(made)


KINDS = {"norms": ("RMSNorm", "LayerNorm"), "mlp": ("MLP",), "layers": ("DecoderLayer", "Block")}
"""How the names of their classes end in transformers."""


def modules_of(part: str, transformer: nn.Module) -> Iterator[nn.Module]:
    """The norms, the MLPs or the decoder layers of a transformer."""
    return (module for module in transformer.modules() if type(module).__name__.endswith(KINDS[part]))


def _timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began

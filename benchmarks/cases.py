"""The single measurements of the speed benchmark; each is called in a process of its own."""

from __future__ import annotations

import resource
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ceiling import best_gemm, matmul_parameters, needed_flops, top_operators
from rounds import turn_by_turn
from sides import Bare, Ours, Peft, as_trained
from subjects import Setting, backbone_of, task_of

from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.prompts.soft_prompt import SoftPrompt

OURS, DOCUMENTED, LABEL_POSITIONS, BARE = "softprompt", "PEFT, as documented", "PEFT, label positions only", "bare"


def training(
    virtual_tokens: int, rounds: int, steps: int, without: list[str] | None = None, **setting: Any
) -> dict[str, Any]:
    """Seconds a training step of each side, turn by turn on the same batches."""
    chosen = Setting(**setting)
    backbone, task = backbone_of(chosen), task_of(chosen)
    ours = Ours(backbone, task, virtual_tokens)
    peft = Peft(backbone, task, ours)
    sides = {OURS: ours.step, LABEL_POSITIONS: peft.label_positions, DOCUMENTED: peft.documented}
    kept = {name: step for name, step in sides.items() if name not in (without or ())}
    began = time.perf_counter()
    with as_trained(chosen, backbone, lambda: ours.step(0)):
        compiling = time.perf_counter() - began
        seconds = turn_by_turn(kept, rounds=rounds, steps=steps)
    tokens = [ours.tokens(step) for step in range(1, 1 + rounds * steps)]
    return {
        "compiling": compiling,
        "seconds": seconds,
        "tokens": tokens,
        "batch": len(ours.batch(1)),
        "prefix": ours.prefix,
    }


def growth(lengths: list[int], rounds: int, steps: int, **setting: Any) -> dict[str, Any]:
    """Seconds a step at P = 0 and at each other P, and what the machine could do in them."""
    chosen = Setting(**setting)
    backbone, task = backbone_of(chosen), task_of(chosen)
    ours = {length: Ours(backbone, task, length) for length in lengths}
    bare = Bare(backbone, task, ours[lengths[0]])
    sides = {BARE: bare.step, **{str(length): side.step for length, side in ours.items()}}
    last = 1 + rounds * steps
    with as_trained(chosen, backbone, lambda: [step(0) for step in sides.values()]):
        seconds = turn_by_turn(sides, rounds=rounds, steps=steps, warmup=2)
        operators = {str(length): top_operators(side.step, last) for length, side in ours.items()}
    counted = range(2, last + 1)
    return {
        "seconds": seconds,
        "tokens": {BARE: _mean(map(bare.tokens, counted)), "rows": _mean(map(ours[lengths[0]].tokens, counted))},
        "prefix": {str(length): side.prefix for length, side in ours.items()},
        "parameters": (parameters := matmul_parameters(backbone)),
        "flops_per_token": needed_flops(parameters, 1),
        "gemm": best_gemm(backbone.dtype, chosen.pick(9, 3)),
        "operators": operators,
    }


def scoring(virtual_tokens: int, rounds: int, rows: int, **setting: Any) -> dict[str, Any]:
    """Seconds to score the same rows with a prompt and with the bare template, both prefixes kept."""
    chosen = Setting(**setting)
    backbone, task = backbone_of(chosen), task_of(chosen)
    model = PromptedModel(backbone)
    texts = [example.fields for example in task.splits["test"][:rows]]
    noise = torch.randn(virtual_tokens, backbone.embedding_size, generator=torch.Generator().manual_seed(0))
    tensors = {"input": noise * backbone.embedding_rms}
    prompt = BoundPrompt.make(backbone, {"input": tensors["input"]}, task.template, task.readout, key="prompt")
    bare = replace(model.bare(task.template, task.readout), key="bare")  # its few words are run once, as a prompt's are
    sides = {OURS: lambda _: model.score_labels(texts, prompt), BARE: lambda _: model.score_labels(texts, bare)}
    return {"seconds": turn_by_turn(sides, rounds=rounds, steps=1), "rows": len(texts)}


def memory(virtual_tokens: int, side: str, steps: int, **setting: Any) -> dict[str, Any]:
    """The process's memory with the backbone loaded, and at its peak over some training steps, in MiB."""
    chosen = Setting(**setting)
    backbone, task = backbone_of(chosen), task_of(chosen)
    ours = Ours(backbone, task, virtual_tokens)
    for parameter in backbone.model.parameters():
        parameter.sum()  # a weight that is only mapped counts from here on
    step = ours.step
    if side != OURS:
        peft = Peft(backbone, task, ours)
        step = peft.documented if side == DOCUMENTED else peft.label_positions
    loaded = _resident()
    with as_trained(chosen, backbone, lambda: step(0)) if side == OURS else nullcontext():
        for number in range(steps):
            step(number)
    return {"loaded": loaded, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def soft_prompt(backbone: Any, task: Any, virtual_tokens: int) -> SoftPrompt:
    """An untrained prompt that starts from the task's text, as training would."""
    rows = Ours(backbone, task, virtual_tokens).start
    return SoftPrompt({"input": rows}, task.template, task.readout, backbone.fingerprint)


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize() / 2**20


def _mean(values: Any) -> float:
    found = list(values)
    return sum(found) / len(found)

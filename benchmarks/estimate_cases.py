"""The single measurements of the estimate benchmark, each in a process of its own, and what was said beforehand."""

from __future__ import annotations

import random
import resource
import statistics
import time
from typing import Any

import torch
from cases import _resident
from sides import Ours
from subjects import Setting, backbone_of

from softprompt.backbones.operators import Seen
from softprompt.experiments.estimate.estimate import Asked, estimate
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.load import load_task

WORDS = ("film", "story", "music", "plot", "card", "house", "water", "time")


def shape(virtual_tokens: int, words: int, **setting: Any) -> dict[str, Any]:
    """The configuration of what is measured, and the lengths of its rows: all that an estimate is told."""
    chosen = Setting(**setting)
    backbone = backbone_of(chosen)
    ours = Ours(backbone, _task(words), virtual_tokens)
    batch = ours.batch(0)
    tokens = ours.tokens(0) / len(batch)
    assert tokens == int(tokens), "rows are of one length"
    config = {name: value for name, value in backbone.model.config.to_dict().items() if _plain(value)}
    return {
        "config": config, "rows": len(batch), "tokens": int(tokens), "virtual_tokens": virtual_tokens,
        "words": ours.prefix - virtual_tokens, "dtype": chosen.dtype,
    }  # fmt: skip


def predicted(config: dict[str, Any], *, measure: bool, **asked: Any) -> dict[str, Any]:
    """What is estimated, the operators of a step measured on this machine where that is asked for."""
    found = estimate(config, Asked(machines=("laptop",), measure=measure, **asked)).to_json()
    sizes = {each["name"]: each for each in found["sizes"]}
    (training,) = (each for each in found["training"] if each["method"] == "soft-prompt")
    return {
        "parameters": found["model"]["parameters"],
        "trained": sizes["soft-prompt"]["trained"],
        "file": sizes["soft-prompt"]["kept"],
        "key values": found["serving"]["key_values"],
        "growth": training["memory_on_cpu"]["growth"],
        "memory": training["memory_on_cpu"],
        "flops": training["flops"],
        "measured": training["measured"],
    }


def sizes(virtual_tokens: int, words: int, **setting: Any) -> dict[str, Any]:
    """Numbers that train, the bytes of the prompt's file, and of its keys and values."""
    backbone, task = backbone_of(Setting(**setting)), _task(words)
    ours = Ours(backbone, task, virtual_tokens)
    prompt = SoftPrompt({"input": ours.start}, task.template, task.readout, backbone.fingerprint)
    bound = BoundPrompt.make(backbone, {"input": ours.start}, task.template, task.readout, key="prompt")
    (prefix,) = PromptedModel(backbone).prefixes([bound], far=False)
    return {
        "parameters": sum(weight.numel() for weight in backbone.model.parameters()),
        "trained": sum(p.numel() for group in ours._learner._optimizer.param_groups for p in group["params"]),
        "file": len(prompt.to_bytes()),
        "key values": sum(tensor.nbytes for pair in prefix.past or [] for tensor in pair),
    }


def growth(virtual_tokens: int, words: int, steps: int, **setting: Any) -> dict[str, float]:
    """Bytes of tensors at the height of a training step, and how much the process grows to that from a loaded backbone.

    The process grows by more: its heap keeps holes between tensors of different lives.
    """
    backbone = backbone_of(Setting(**setting))
    for parameter in backbone.model.parameters():
        parameter.sum()  # a weight that is only mapped counts from here on
    small = Ours(backbone, _task(3), 1)
    small.step(0)  # what libraries set up once, on rows of a few tokens
    ours = Ours(backbone, _task(words), virtual_tokens)
    loaded = _resident()
    for number in range(steps):
        ours.step(number)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - loaded * 2**20
    seen = Seen([*backbone.model.parameters(), *backbone.model.buffers()])
    with seen:
        ours.step(steps)
    return {"loaded": loaded, "process growth": grown, "growth": seen.peak}


def seconds(virtual_tokens: int, words: int, steps: int, **setting: Any) -> dict[str, Any]:
    """Seconds a training step: the median, after two that warm up."""
    ours = Ours(backbone_of(Setting(**setting)), _task(words), virtual_tokens)
    taken = []
    for number in range(steps + 2):
        began = time.perf_counter()
        ours.step(number)
        taken.append(time.perf_counter() - began)
    return {"seconds": statistics.median(taken[2:]), "all": taken, "threads": torch.get_num_threads()}


def _task(words: int) -> Any:
    """Rows of one length, all different: every word is one token of Gemma's."""
    drawn = random.Random(0)

    def row(number: int) -> dict[str, str]:
        return {"text": " ".join(drawn.choices(WORDS, k=words)), "label": ("good", "bad")[number % 2]}

    splits = {name: [row(number) for number in range(64)] for name in ("train", "validation", "test")}
    return load_task(splits, text="text", label="label", name="words")


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool | list | dict)

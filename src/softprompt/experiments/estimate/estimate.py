"""`estimate`: what prompts and their rivals take on a model of any size, without its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from softprompt.backbones.blank import Blank, blank_model, config_settings
from softprompt.backbones.blueprint import Blueprint, blueprint_of
from softprompt.backbones.hardware import DTYPES
from softprompt.backbones.rehearsal import Rehearsal, Step, Way, rehearse
from softprompt.backbones.stand_ins import attention_for
from softprompt.errors import ConfigError
from softprompt.experiments.estimate.hardware import (
    MACHINES,
    SHARE,
    Machine,
    Measured,
    machine,
    measured_here,
    seconds_on,
)
from softprompt.experiments.estimate.memory import (
    Memory,
    beside,
    logits_everywhere,
    memory_of,
    resident,
    resident_in_windows,
)
from softprompt.experiments.estimate.sizes import Size, sizes
from softprompt.registry import unknown_name
from softprompt.training.bank import TOKENS

WAYS: Mapping[str, Way] = {"soft-prompt": "prompt", "lora": "lora", "full": "full"}
"""The methods whose training is reckoned with, by their names in the catalogue."""


@dataclass(frozen=True)
class Asked:
    """What is to be estimated.

    Attributes:
        tasks: how many.
        virtual_tokens: P.
        words: tokens in front of a row beside the virtual ones: BOS and the template's.
        rows: of a step.
        tokens: of a step's longest row; shorter ones are padded to it.
        labels: C, answers to choose from.
        steps: of a run.
        dtype: of the frozen weights.
        machines: names of `MACHINES`; none: all.
        share: of a machine's peak that matrix products reach.
        memory: bytes beside which prompts are to fit, where it is not the machine's own.
        measure: time the operators of a step on this machine.
        rank: of LoRA.
        bottleneck: of Houlsby's adapters.
    """

    tasks: int = 1
    virtual_tokens: int = 20
    words: int = 1
    rows: int = 32
    tokens: int = 64
    labels: int = 2
    steps: int = 1000
    dtype: str = "bf16"
    machines: tuple[str, ...] = ()
    share: float = SHARE
    memory: float | None = None
    measure: bool = False
    rank: int = 8
    bottleneck: int = 64

    def __post_init__(self) -> None:
        for name in ("tasks", "virtual_tokens", "rows", "tokens", "labels", "steps", "rank", "bottleneck"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` is {getattr(self, name)}; an estimate needs at least 1")
        if self.words < 0 or not 0 < self.share <= 1:
            raise ConfigError(
                f"words is {self.words} and share {self.share:g}; words are at least 0, and a share is in (0, 1]"
            )
        if self.dtype not in DTYPES:
            raise unknown_name("dtype", self.dtype, DTYPES)
        for name in self.machines:
            machine(name)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch has it."""
        dtype: torch.dtype = getattr(torch, DTYPES[self.dtype])
        return dtype

    def step(self, way: Way, held: int) -> Step:
        """Return a step of one way of training."""
        prefix = self.virtual_tokens + self.words if way in ("prompt", "deep", "scoring") else self.words
        return Step(way, self.rows, self.tokens, prefix, held, self.labels, rank=self.rank)


@dataclass(frozen=True)
class Training:
    """One method's training.

    Attributes:
        method: its name.
        memory: part by part, with the passes of a GPU (32,768 tokens held at once).
        memory_on_cpu: the same with a CPU's passes (2,048 tokens).
        flops: of a step.
        seconds: of a step on each machine, by name.
        measured: on this machine; None: not asked for.
    """

    method: str
    memory: Memory
    memory_on_cpu: Memory
    flops: int
    seconds: Mapping[str, float]
    measured: Measured | None = None


@dataclass(frozen=True)
class Serving:
    """What prompts take while they serve.

    Attributes:
        key_values: bytes of one resident prompt, every layer with all its columns, as this program keeps them.
        in_windows: bytes where layers with a window keep no more than it sees.
        fits: prompts beside the model, on each machine, by name; None: the model itself does not fit.
        rows: rows a second, on each machine; rough.
    """

    key_values: int
    in_windows: int
    fits: Mapping[str, int | None]
    rows: Mapping[str, float]


@dataclass(frozen=True)
class Estimate:
    """What a model takes.

    Attributes:
        asked: for what.
        shape: of the model.
        sizes: of every method.
        trainings: of those in `WAYS`.
        serving: of prompts.
        logits_everywhere: bytes that logits at every token would take, which no method here computes.
        assumptions: what the figures rest on, a sentence each.
    """

    asked: Asked
    shape: Blueprint
    sizes: tuple[Size, ...]
    trainings: tuple[Training, ...]
    serving: Serving
    logits_everywhere: int
    assumptions: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        trainings = [
            {
                **asdict(each),
                "memory": _plain(each.memory),
                "memory_on_cpu": _plain(each.memory_on_cpu),
                "flops_of_a_run": each.flops * self.asked.steps,
            }
            for each in self.trainings
        ]
        kept = [{**asdict(s), "kept_for_all": s.kept and s.kept * self.asked.tasks} for s in self.sizes]
        return {
            "asked": asdict(self.asked),
            "model": self.shape.to_json(),
            "sizes": kept,
            "training": trainings,
            "serving": asdict(self.serving),
            "logits_everywhere": self.logits_everywhere,
            "assumptions": [*self.assumptions],
        }


def _plain(memory: Memory) -> dict[str, int]:
    return {**asdict(memory), "growth": memory.growth, "total": memory.total}


def estimate(model: str | Mapping[str, Any], asked: Asked | None = None) -> Estimate:
    """Estimate what prompts and their rivals take on a model; nothing but its configuration is read.

    Args:
        model: as for `backbones.blank.blank_model`.
        asked: for what.

    Raises:
        BackboneError, UnknownNameError, UnsupportedBackboneError: the configuration cannot be found, read or built.
    """
    asked = asked or Asked()
    settings = model if isinstance(model, Mapping) else config_settings(model)
    blank = _blank(model if isinstance(model, str) else str(settings.get("model_type")), settings, asked)
    shape, each = blueprint_of(blank), asked.torch_dtype.itemsize
    found = sizes(
        shape, virtual_tokens=asked.virtual_tokens, labels=asked.labels, rank=asked.rank, bottleneck=asked.bottleneck,
        each=each,
    )  # fmt: skip
    machines = [machine(name) for name in asked.machines or MACHINES]
    trainings = tuple(_training(blank, shape, asked, size, machines) for size in found if size.name in WAYS)
    step = asked.step("prompt", TOKENS["cuda"])
    return Estimate(
        asked=asked,
        shape=shape,
        sizes=tuple(found),
        trainings=trainings,
        serving=_serving(blank, shape, asked, machines),
        logits_everywhere=logits_everywhere(shape, step, each),
        assumptions=_assumptions(shape, asked),
    )


def _blank(name: str, settings: Mapping[str, Any], asked: Asked) -> Blank:
    text = settings.get("text_config")
    model_type = str((text if isinstance(text, Mapping) else settings).get("model_type") or "none")
    made = blank_model(settings, dtype=asked.torch_dtype, attention=attention_for(model_type))
    return replace(made, name=name)


def _training(blank: Blank, shape: Blueprint, asked: Asked, size: Size, machines: Sequence[Machine]) -> Training:
    way, each = WAYS[size.name], asked.torch_dtype.itemsize
    steps = {device: asked.step(way, TOKENS[device]) for device in ("cuda", "cpu")}
    seen = {device: rehearse(blank, step, grouped=device == "cpu") for device, step in steps.items()}
    held = {device: memory_of(shape, each, steps[device], seen[device], size.trained or 0) for device in steps}
    return Training(
        method=size.name,
        memory=held["cuda"],
        memory_on_cpu=held["cpu"],
        flops=seen["cuda"].flops,
        seconds={on.name: seconds_on(on, _on(seen, on), asked.share) for on in machines},
        measured=measured_here(seen["cpu"]) if asked.measure and way == "prompt" else None,
    )


def _on(seen: Mapping[str, Rehearsal], on: Machine) -> Rehearsal:
    return seen["cpu" if on.cpu else "cuda"]


def _serving(blank: Blank, shape: Blueprint, asked: Asked, machines: Sequence[Machine]) -> Serving:
    each, slots = asked.torch_dtype.itemsize, asked.virtual_tokens + asked.words
    seen = rehearse(blank, asked.step("scoring", TOKENS["cuda"]), grouped=False)
    weights, one = shape.total * each, resident(shape, slots, each)
    room = {on.name: asked.memory or on.memory for on in machines}
    return Serving(
        key_values=one,
        in_windows=resident_in_windows(shape, slots, each),
        fits={
            name: None if size < weights + seen.peak else beside(size, weights, one, seen.peak)
            for name, size in room.items()
        },
        rows={on.name: asked.rows / seconds_on(on, seen, asked.share) for on in machines},
    )


def _assumptions(shape: Blueprint, asked: Asked) -> tuple[str, ...]:
    said = [
        f"A step is {asked.rows} rows of {asked.tokens} tokens, padding counted, behind {asked.virtual_tokens} virtual "
        f"tokens and {asked.words} of the template; the prompt is run once a step, and rows are read at one position.",
        f"Weights in {asked.dtype}; what trains has 20 bytes a number: fp32 value, gradient, two moments of Adam, best "
        "state.",
        f"Matrix products reach {asked.share:.0%} of a machine's peak and memory 70 % of its bandwidth; an operator "
        "takes no less than its launch. Times and rows a second are rough: expect them within a factor of two.",
        "Memory is that of tensors, counted allocation by allocation on a step without numbers. A CUDA context takes "
        "about half a gigabyte more; processes on a CPU were seen to grow by up to a third more than their tensors.",
    ]
    if shape.experts:
        every, used = shape.experts
        said.append(
            f"{used} of {every} experts take part in each token, spread evenly; LoRA is counted without the experts, "
            "which transformers keeps in one tensor."
        )
    if shape.kind == "encoder-decoder":
        said.append("The prompt stands at the encoder's input; a deep prompt is the decoder's keys and values.")
    return (*said, *shape.notes)

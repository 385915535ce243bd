"""How much of a step is held in memory at once: found where it must be, written down, and repeated by a resume.

A step is cut into passes, whose gradients add up: how it is cut changes rounding only. Where a pass does not fit, it
is made smaller and the same step is done again; the step at which that happened is in the run's plan, so that a run
that is killed and resumed cuts every step as it was cut.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from softprompt import durable
from softprompt.backbones.backbone import Backbone
from softprompt.backbones.checkpointing import checkpointed
from softprompt.backbones.hardware import is_out_of_memory
from softprompt.errors import OutOfMemoryError, TrainingError
from softprompt.progress import say
from softprompt.training.bank import TOKENS
from softprompt.training.config import TrainConfig
from softprompt.training.parallel import World

T = TypeVar("T")

_EASY = 512
"""Tokens at once below which running layers again costs less than passes that small."""
_LEAST = 16
_SHARE = 0.25
"""Of a machine's memory that the graph of one pass may take on a CPU, where nothing tells in time that it is full."""


@dataclass(frozen=True)
class Holding:
    """How a step is cut from some step on.

    Attributes:
        step: the first step that is cut so, counted from 0.
        tokens: tokens whose graph is held at once.
        layers: whether layers are run again in the backward pass instead of remembered.
    """

    step: int
    tokens: int
    layers: bool

    def smaller(self, step: int, checkpoint: bool | None) -> Holding | None:
        """Return what to try next: half the tokens; at few tokens layers are run again, unless that was forbidden.

        >>> Holding(0, 1024, False).smaller(7, None)
        Holding(step=7, tokens=512, layers=False)
        >>> Holding(7, 512, False).smaller(7, None)
        Holding(step=7, tokens=512, layers=True)
        """
        if self.tokens <= _EASY and not self.layers and checkpoint is None:
            return Holding(step, self.tokens, True)
        return Holding(step, self.tokens // 2, self.layers) if self.tokens // 2 >= _LEAST else None


class Memory:
    """Does steps within the memory there is.

    Args:
        backbone: the frozen transformer.
        config: `tokens_at_once` and `checkpoint_layers`; what they leave open is chosen by the device.
        plan: the run's `plan.json`.
        world: the processes of the run, which must cut a step alike.
        resume: go on by the plan.
    """

    def __init__(self, backbone: Backbone, config: TrainConfig, plan: Path, world: World, *, resume: bool) -> None:
        self._backbone, self._config, self._plan, self._world = backbone, config, plan, world
        found = read_plan(plan).get("memory") if resume else None
        self.holdings = [Holding(**each) for each in found] if found else [first_holding(backbone, config)]

    def at(self, step: int) -> Holding:
        """Return how a step is cut."""
        return next(held for held in reversed(self.holdings) if held.step <= step or held is self.holdings[0])

    def within(self, step: int, work: Callable[[int], T]) -> T:
        """Do a step's work, and again from its beginning, in smaller passes, as long as it does not fit.

        Args:
            step: counted from 0.
            work: takes the tokens that are held at once; leaves nothing behind when it fails.

        Raises:
            OutOfMemoryError: it does not fit even in the smallest passes, or the processes share a backbone's weights.
            UnsupportedBackboneError: layers are to be run again, and the family's cannot be.
        """
        while True:
            held = self.at(step)
            done, failed = self._try(held, work)
            if not self._world.lockstep:
                failed = self._world.any(failed)
            if not failed:
                assert done is not None, "what did not fail is done"
                return done
            self._shrink(step, held)

    def _try(self, held: Holding, work: Callable[[int], T]) -> tuple[T | None, bool]:
        try:
            with checkpointed(self._backbone) if held.layers else nullcontext():
                return work(held.tokens), False
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        gc.collect()  # out here, where the error no longer holds the graph of the pass that failed
        if self._backbone.device.type == "cuda":
            torch.cuda.empty_cache()
        return None, True

    def _shrink(self, step: int, held: Holding) -> None:
        smaller = None if self._world.lockstep else held.smaller(step, self._config.checkpoint_layers)
        if smaller is None:
            apart = " (processes that share the backbone's weights cannot do it again)" if self._world.lockstep else ""
            raise OutOfMemoryError(
                f"step {step + 1} does not fit in memory with {held.tokens} tokens held at once{apart}; set "
                "tokens_at_once lower or checkpoint_layers, or take a smaller backbone, shorter rows or fewer "
                "virtual tokens"
            )
        self.holdings.append(smaller)
        again = " and layers are run again in the backward pass" if smaller.layers and not held.layers else ""
        say(
            f"warning: step {step + 1} did not fit in memory with {held.tokens} tokens held at once; from here on it "
            f"is {smaller.tokens}{again} (tokens_at_once and checkpoint_layers say so from the start)"
        )
        if self._world.first:
            add_to_plan(self._plan, memory=[asdict(each) for each in self.holdings])


def read_plan(path: Path) -> dict[str, Any]:
    """Return what was decided for a run and written down; nothing where nothing was.

    Raises:
        TrainingError: the file is damaged.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    except ValueError as error:
        raise TrainingError(f"`{path}` is damaged ({error}); start anew without --resume") from error


def add_to_plan(path: Path, **decided: Any) -> None:
    """Write down what was decided for a run, beside what stands there.

    Raises:
        StorageError: the folder cannot be written.
    """
    durable.write_text(path, json.dumps({**read_plan(path), **decided}) + "\n")


def first_holding(backbone: Backbone, config: TrainConfig) -> Holding:
    """Return how steps are cut at first: as the settings say, else by the device.

    On a GPU 32,768 tokens, fewer once they do not fit. A CPU's system would end the program rather than tell it, so
    there the memory that a token's graph takes is measured, and as many tokens are held, 2,048 at most, as fit in a
    quarter of the machine's memory: the same on every day.
    """
    layers, device = bool(config.checkpoint_layers), backbone.device.type
    held = Holding(0, config.tokens_at_once or TOKENS[device], layers)
    if config.tokens_at_once or device != "cpu":
        return held
    room, each = _SHARE * machine_memory(), graph_bytes(backbone)
    while (each / backbone.num_layers if held.layers else each) * held.tokens > room:
        smaller = held.smaller(0, config.checkpoint_layers)
        if smaller is None:
            break
        held = smaller
    return held


def graph_bytes(backbone: Backbone) -> float:
    """Return the bytes that one token of a row leaves in the graph of a pass, measured on a short row."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in backbone.model.parameters()}
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    row = torch.zeros(1, _LEAST, backbone.embedding_size, device=backbone.device, requires_grad=True)
    mask = torch.ones(1, _LEAST, dtype=torch.long, device=backbone.device)
    positions = torch.arange(_LEAST, device=backbone.device)[None]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        graph = (
            backbone.encode(row, mask=mask)
            if backbone.kind == "encoder-decoder"
            else backbone.run(row, mask=mask, positions=positions)[0]
        )
        del graph
    return sum(seen.values()) / _LEAST


def machine_memory() -> int:
    """Return the bytes of memory that this machine has, or that its container may use."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="utf-8").strip() if limit.exists() else "max"
    return min(whole, int(text)) if text.isdecimal() else whole

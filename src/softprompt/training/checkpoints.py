"""The state of a run between two steps, as one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from softprompt import durable
from softprompt.errors import TrainingError


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on as if it had never stopped.

    Attributes:
        step: steps done.
        tensors: parameters, optimizer state, best and first prompt, by name.
        state: the rest, as plain JSON.
    """

    step: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Put the checkpoint at `path`, whole or not at all.

        Raises:
            StorageError: the disk is full, or the folder may not be written.
        """
        note = json.dumps({"step": self.step, "state": self.state}, sort_keys=True)
        # Clones, because safetensors refuses tensors that share memory, as the first and the best may.
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self.tensors.items()}
        durable.write_bytes(path, save(plain, metadata={"softprompt": note}))

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            TrainingError: the file is not one.
        """
        try:
            with safe_open(path, framework="pt") as file:
                note = json.loads(file.metadata()["softprompt"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, KeyError, TypeError, OSError, json.JSONDecodeError) as error:
            raise TrainingError(f"`{path.name}` is no checkpoint ({error}); start anew without --resume") from error
        return cls(note["step"], tensors, note["state"])


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state by name: `optimizer.<parameter>.<quantity>`."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{name}": value if isinstance(value, Tensor) else torch.tensor(float(value))
        for index, entry in state.items()
        for name, value in entry.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    whole = optimizer.state_dict()
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, quantity = name.split(".", 2)
            entries.setdefault(int(index), {})[quantity] = value
    whole["state"] = entries
    optimizer.load_state_dict(whole)

"""The checkpoint of a training in a folder: one safetensors file, replaced whole, no more often than it is worth."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from softprompt import durable
from softprompt.progress import say

FILE = "tuning.safetensors"
_PAUSE = 20
"""Writing takes at most one part in so many of the time: a whole model's optimizer state is gigabytes."""


class Pauses:
    """The checkpoint of one training.

    Args:
        folder: where it lies; None: nothing is written.
        told: what must be alike for a checkpoint to belong to this training, as plain JSON.
    """

    def __init__(self, folder: Path | None, told: Mapping[str, Any]) -> None:
        self._file = None if folder is None else folder / FILE
        self._told: Any = json.loads(json.dumps(told))
        self._wrote, self._took = 0.0, 0.0

    def write(self, tensors: Callable[[], Mapping[str, Tensor]], plain: Mapping[str, Any], *, must: bool) -> None:
        """Replace the checkpoint, unless the last one was written a moment ago.

        Args:
            tensors: gives what is to be kept.
            plain: the rest, as plain JSON.
            must: write whenever the last one was.

        Raises:
            StorageError: the disk is full, or the folder may not be written.
        """
        if self._file is None or (not must and time.monotonic() < self._wrote + _PAUSE * self._took):
            return
        began = time.monotonic()
        note = json.dumps({"told": self._told, "plain": plain}, sort_keys=True)
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors().items()}
        with durable.replacing(self._file) as stream:
            save_file(held, stream.name, metadata={"softprompt": note})
        self._wrote = time.monotonic()
        self._took = self._wrote - began

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return what was written last; None where there is nothing that belongs to this training."""
        if self._file is None or not self._file.exists():
            return None
        try:
            with safe_open(self._file, framework="pt") as file:
                note = json.loads(file.metadata()["softprompt"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, KeyError, TypeError, OSError, ValueError) as error:
            say(f"warning: `{self._file}` is damaged ({error}); the training starts anew")
            return None
        if note["told"] != self._told:
            say(f"warning: `{self._file}` is of another training (method, rows, rate or length); this one starts anew")
            return None
        return tensors, note["plain"]

"""The most memory that a piece of work took, beside what was there before it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone

MIB = 2**20
_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"


@dataclass
class Memory:
    """Memory of the whole process, or of the GPU where the backbone lies on one.

    Attributes:
        loaded: MiB before the work, the backbone's weights read.
        peak: MiB at most during the work; 0 until it has ended.
        notes: what a reader must know, a sentence each.
    """

    loaded: float = 0.0
    peak: float = 0.0
    notes: tuple[str, ...] = ()


@contextmanager
def watched(backbone: Backbone) -> Iterator[Memory]:
    """Watch the memory of the work inside; the figures stand when it has ended, whether well or not.

    Args:
        backbone: its weights are touched first, so that those which are only mapped count as loaded.

    Yields:
        What was found.
    """
    for parameter in backbone.model.parameters():
        parameter.detach().sum()
    counter = _Gpu(backbone) if backbone.device.type == "cuda" else _Process()
    memory = Memory(loaded=counter.loaded(), notes=counter.notes)
    try:
        yield memory
    finally:
        memory.peak = max(memory.loaded, counter.peak())


class _Process:
    """Resident memory: the kernel's high-water mark, set back first where that is allowed."""

    def __init__(self) -> None:
        self._reset = _set_back()
        told = "the peak of memory is that of the whole process, loading included: its mark cannot be set back here"
        self.notes = () if self._reset else (told,)

    def loaded(self) -> float:
        return _status("VmRSS") or _high_water()

    def peak(self) -> float:
        return (_status("VmHWM") if self._reset else 0.0) or _high_water()


class _Gpu:
    """What torch has allocated on the backbone's device."""

    def __init__(self, backbone: Backbone) -> None:
        import torch

        self._cuda, self._device = torch.cuda, backbone.device
        self._cuda.reset_peak_memory_stats(self._device)
        self.notes = ("memory is the GPU's",)

    def loaded(self) -> float:
        return self._cuda.memory_allocated(self._device) / MIB

    def peak(self) -> float:
        return self._cuda.max_memory_allocated(self._device) / MIB


def _set_back() -> bool:
    """Set the high-water mark to what is resident now; False where the system does not let us."""
    try:
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def _status(name: str) -> float:
    """A line of the process's status in MiB; 0 where there is none."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", (_PROCESS / "status").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def _high_water() -> float:
    """The process's peak since it began, in MiB; macOS counts in bytes, Linux in KiB."""
    import resource

    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found / (MIB if sys.platform == "darwin" else 1024)

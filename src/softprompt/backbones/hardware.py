"""Where a backbone runs and in which dtype: chosen from what the machine can do, unless asked.

fp16 is for GPUs without bf16. It is chosen and loaded in the tests, but nothing has been computed in it on a GPU yet.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

import torch

from softprompt.backbones.processes import place
from softprompt.errors import BackboneError, ConfigError
from softprompt.registry import unknown_name

DTYPES = {
    "bf16": "bfloat16", "bfloat16": "bfloat16", "fp32": "float32", "float32": "float32",
    "fp16": "float16", "float16": "float16",
}  # fmt: skip

_SOFT = 1  # omp_pause_soft: what was set stays


def choose_device(asked: str | None = None) -> torch.device:
    """Return the device asked for, else the GPU if there is one, else the CPU.

    >>> choose_device("cpu")
    device(type='cpu')

    Args:
        asked: `cpu`, `cuda` or `cuda:1`, or None.

    Raises:
        ConfigError: the text names no device, or one that this machine does not have.
    """
    if asked is None:
        return own_gpu(torch.device("cuda")) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise ConfigError(f"device `{asked}` is none; use `cpu`, `cuda` or `cuda:N`") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device `{asked}` is not supported; use `cpu`, `cuda` or `cuda:N`")
    device, count = own_gpu(device), torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"device `{asked}` was asked for, but torch sees {count} CUDA devices here; use `cpu`")
    return device


def own_gpu(device: torch.device) -> torch.device:
    """Return the GPU of this process, where several have been started together and no number says which.

    >>> own_gpu(torch.device("cuda")), own_gpu(torch.device("cuda:1"))
    (device(type='cuda'), device(type='cuda', index=1))
    """
    together = device == torch.device("cuda") and place().size > 1
    return torch.device("cuda", place().local) if together else device


def choose_dtype(asked: str | None, device: torch.device, *, overflows: str | None = None) -> torch.dtype:
    """Return the dtype asked for, else bf16 where the hardware computes in it, else fp16 on a GPU, else fp32.

    >>> import torch
    >>> choose_dtype("fp32", torch.device("cpu"))
    torch.float32

    Args:
        asked: `bf16`, `fp32` or `fp16` (or torch's names for them), or None.
        device: where the backbone will run.
        overflows: the family whose activations go beyond what fp16 can hold; None: they stay within it.

    Raises:
        ConfigError: fp16 on a CPU, which has no arithmetic for it, or for a family that goes beyond its range.
        UnknownNameError: another dtype was asked for.
    """
    if asked is None:
        return _quickest(device, overflows is None)
    if asked not in DTYPES:
        raise unknown_name("dtype", asked, DTYPES)
    dtype: torch.dtype = getattr(torch, DTYPES[asked])
    if dtype == torch.float16 and device.type != "cuda":
        raise ConfigError(f"dtype `{asked}` was asked for on `{device}`; it is for GPUs: use `bf16` or `fp32`")
    if dtype == torch.float16 and overflows is not None:
        raise ConfigError(
            f"dtype `{asked}` was asked for, but {overflows} computes numbers beyond its range: use `bf16`"
        )
    return dtype


def _quickest(device: torch.device, fp16: bool) -> torch.dtype:
    if computes_bf16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" and fp16 else torch.float32


def computes_bf16(device: torch.device) -> bool:
    """Say whether a device multiplies matrices in bf16 by itself; where it does not, bf16 is slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def leave_cores() -> None:
    """Let go of the threads that the calling thread has computed with on a CPU, until it computes again.

    For a thread that leaves computing to another. GNU's OpenMP, which torch computes with on Linux, lets threads that
    wait for work sleep at once where all teams together have more threads than there are cores; and to wake one takes
    longer than a small product. With an idle team beside it, decoding on two cores takes twice as long.
    """
    for openmp in _gnu_openmp():
        openmp.omp_pause_resource_all(_SOFT)


@cache
def _gnu_openmp() -> tuple[ctypes.CDLL, ...]:
    """GNU's OpenMP, where it has been loaded and can pause (OpenMP 5.0, section 3.2.44)."""
    loaded: int | None = getattr(os, "RTLD_NOLOAD", None)
    if loaded is None:
        return ()
    copies = []
    for name in (*map(str, Path(torch.__file__).parent.glob("lib/libgomp*")), "libgomp.so.1"):
        try:
            found = ctypes.CDLL(name, mode=loaded)
        except OSError:
            continue
        if hasattr(found, "omp_pause_resource_all"):
            copies.append(found)
    return tuple(copies)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory is full: torch has a type for it on GPUs and a sentence on CPUs.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError("memory"))
    (True, False)
    """
    full = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return full or "DefaultCPUAllocator: can't allocate" in str(error)


def check_lost(error: BaseException, device: torch.device) -> None:
    """Return unless an error says that a GPU is lost: this process gets the same error from it for ever.

    torch says nearly the same of one call that was wrong, after which the GPU computes on; so the GPU itself is asked.

    Args:
        error: what a computation ended with.
        device: where it ran.

    Raises:
        BackboneError: the device is lost.
    """
    told = isinstance(error, getattr(torch, "AcceleratorError", ())) or "CUDA error" in str(error)
    if told and not is_out_of_memory(error) and not _computes(device):
        first = (str(error).splitlines() or [""])[0]
        raise BackboneError(f"the device `{device}` is lost to this process: {first}; start it again") from error


def _computes(device: torch.device) -> bool:
    """Whether a GPU does what it was given; one that is lost, or not there at all, raises."""
    try:
        torch.cuda.synchronize(device)
    except Exception:  # noqa: BLE001 - of a type that changes with torch and with what is wrong
        return False
    return True

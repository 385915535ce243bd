"""One tensor [P, D] as the file that PyTorch saves, written and read here without unpickling anything.

Such a file is a zip: `data/0` holds numbers, and a short program, `data.pkl`, says how the tensor lies in them (see
`torch_program`).
"""

from __future__ import annotations

import sys
from io import BytesIO
from itertools import pairwise
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import torch
from torch import Tensor

from softprompt.prompts.header import refused
from softprompt.shapes import Float
from softprompt.store.archive import SIGNATURE, Archive
from softprompt.store.torch_program import STORAGES, Found, run_program, write_program

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How PyTorch's files began before version 1.6."""

_NAMES = {dtype: storage for storage, dtype in STORAGES.items()}
_MAX_PROGRAM = 4096
_FOLDER = "archive"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_torch(rows: Float[Tensor, "P D"]) -> bytes:
    """Return rows as a file that `torch.load(..., weights_only=True)` reads back bit by bit.

    Equal rows give equal bytes.

    Args:
        rows: in float32, bfloat16 or float16.

    Raises:
        PromptFileError: another dtype.
    """
    own = rows.detach().cpu().contiguous()
    if own.dtype not in _NAMES:
        raise refused("rows", f"they are {own.dtype}; what is written has float32, bfloat16 or float16")
    members = {
        "data.pkl": write_program(_NAMES[own.dtype], *own.shape),
        "byteorder": sys.byteorder.encode(),
        "data/0": own.reshape(-1).view(torch.uint8).numpy().tobytes(),
        "version": b"3\n",
    }
    out = BytesIO()
    with ZipFile(out, "w", ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(ZipInfo(f"{_FOLDER}/{name}", _EPOCH), data)
    return out.getvalue()


def read_torch(data: bytes, name: str) -> Float[Tensor, "P D"]:
    """Return the one tensor of a file that PyTorch saved.

    Args:
        data: the file's bytes.
        name: what to call the file in an error.

    Raises:
        PromptFileError: PyTorch's format before 1.6, no such file at all, or one that holds anything but a bare
            tensor of two axes in float32, bfloat16 or float16.
    """
    if data.startswith(LEGACY):
        raise refused(
            name,
            "it is of PyTorch's format before 1.6, which cannot be read without unpickling; where you trust it, load "
            "and save it once with a newer PyTorch: torch.save(torch.load(path, weights_only=True), path)",
        )
    if not data.startswith(SIGNATURE):
        raise refused(name, "it does not begin as a file that PyTorch saved; save it again")
    archive = Archive(data, name)
    folder = _folder(archive, name)
    if f"{folder}/byteorder" in archive.names and archive.read(f"{folder}/byteorder", 16) != b"little":
        raise refused(name, "its numbers are big-endian; save it on a machine that is little-endian")
    found = run_program(archive.read(f"{folder}/data.pkl", _MAX_PROGRAM), name)
    return _laid_out(found, archive.read(f"{folder}/data/{found.key}"), name)


def _folder(archive: Archive, name: str) -> str:
    """The folder that all members of PyTorch's archive lie in."""
    programs = [member for member in archive.names if member.endswith("/data.pkl") and member.count("/") == 1]
    if len(programs) != 1:
        raise refused(name, "it is a zip archive without the one `data.pkl` that PyTorch writes; save it again")
    return programs[0].removesuffix("/data.pkl")


def _laid_out(found: Found, data: bytes, name: str) -> Tensor:
    """Read the numbers, every bound checked first; a view of a larger storage is read as the view that it is."""
    width = torch.empty((), dtype=found.dtype).element_size()
    if found.size < 0 or len(data) != found.size * width:
        raise refused(name, f"its storage has {len(data):,} bytes, not those of {found.size:,} numbers; save it again")
    last = found.offset + sum((n - 1) * stride for n, stride in zip(found.shape, found.strides, strict=True))
    smallest = min(found.offset, *found.strides)
    if min(found.shape) < 1 or smallest < 0 or last >= found.size or _overlaps(found):
        raise refused(
            name,
            f"its tensor {list(found.shape)} with strides {list(found.strides)} from {found.offset} does not lie in "
            f"its storage of {found.size:,} numbers; save it again",
        )
    flat = torch.frombuffer(bytearray(data), dtype=found.dtype)
    return flat.as_strided(found.shape, found.strides, found.offset).clone().contiguous()


def _overlaps(found: Found) -> bool:
    """Whether two places of the tensor are one number, by which a small file could claim any size."""
    axes = sorted(zip(found.strides, found.shape, strict=True))
    real = [(stride, size) for stride, size in axes if size > 1]
    return any(stride < 1 for stride, _ in real) or any(
        wider < stride * size for (stride, size), (wider, _) in pairwise(real)
    )

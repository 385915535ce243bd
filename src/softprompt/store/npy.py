"""One array [P, D] as the `.npy` file that NumPy saves: its header by a strict pattern, then its numbers."""

from __future__ import annotations

import re
from math import prod

import torch
from torch import Tensor

from softprompt.prompts.header import refused
from softprompt.shapes import Float

SIGNATURE = b"\x93NUMPY"
"""The first bytes of such a file."""

_MAX_HEADER = 4096
# What NumPy writes and nothing else: a Python literal is not evaluated here.
_HEADER = re.compile(
    r"\{'descr': '([<>|=]?[A-Za-z]\d{0,4})', 'fortran_order': (True|False), "
    r"'shape': \((|N,|N(?:, N)+)\), \} *\n".replace("N", r"(?:0|[1-9]\d{0,18})")
)
_NUMBERS = {"<f4": torch.float32, "<f2": torch.float16, "|V2": torch.bfloat16, "<V2": torch.bfloat16}


def read_npy(data: bytes, name: str) -> Float[Tensor, "P D"]:
    """Return the array of a `.npy` file; two bytes of no type, as JAX saves bfloat16, are bfloat16.

    Args:
        data: the file's bytes.
        name: what to call the file in an error.

    Raises:
        PromptFileError: no such file, a header that NumPy does not write, Python objects, another dtype, another
            number of axes, or other bytes than the shape asks for.
    """
    text, body = _parts(data, name)
    header = _HEADER.fullmatch(text)
    if header is None:
        raise refused(name, f"its header is not one that NumPy writes (`{text.strip()[:80]}`); save it again")
    descr, shape = header[1], tuple(int(size) for size in header[3].split(",") if size)
    if descr not in _NUMBERS:
        raise refused(name, f"its array is of `{descr}`; the rows of a prompt are <f4, <f2 or bfloat16")
    dtype = _NUMBERS[descr]
    if len(shape) != 2 or min(shape) < 1:
        raise refused(name, f"its array has the shape {list(shape)}; the rows of a prompt are [P, D]")
    wanted = prod(shape) * torch.empty((), dtype=dtype).element_size()
    if len(body) != wanted:
        raise refused(
            name, f"its array has {len(body):,} bytes, and {list(shape)} of {descr} {wanted:,}; save it again"
        )
    flat = torch.frombuffer(bytearray(body), dtype=dtype)
    return flat.reshape(shape[::-1]).T.contiguous() if header[2] == "True" else flat.reshape(shape)


def _parts(data: bytes, name: str) -> tuple[str, bytes]:
    """The header's text and the numbers behind it."""
    if not data.startswith(SIGNATURE) or len(data) < 10:
        raise refused(name, "it does not begin as a file of NumPy (.npy); save it again")
    major, minor = data[6], data[7]
    if major not in (1, 2, 3) or minor != 0:
        raise refused(name, f"it is of version {major}.{minor} of NumPy's format; 1.0 to 3.0 are read")
    start = 10 if major == 1 else 12
    length = int.from_bytes(data[8:start], "little")
    if length > _MAX_HEADER or start + length > len(data):
        raise refused(name, f"its header claims {length:,} bytes of at most {_MAX_HEADER:,}; save it again")
    return data[start : start + length].decode("latin-1"), data[start + length :]

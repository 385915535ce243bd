"""A prompt's tensors and manifest to bytes and back: the same content, the same bytes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from softprompt.prompts.header import MAX_FILE, MAX_HEADER, Header, read_header, refused, write_header
from softprompt.prompts.manifest import Manifest, read_manifest, write_manifest

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def encode(tensors: Mapping[str, Tensor], manifest: Manifest, name: str = "prompt") -> bytes:
    """Return the canonical bytes of a prompt file.

    Args:
        tensors: by site, in float32, bfloat16 or float16.
        manifest: everything else.
        name: what to call the prompt in an error.

    Raises:
        PromptFileError: a dtype that a file cannot hold, or more bytes than a file or its header may have.
    """
    table = {site: (dtype_name(site, tensor, name), tuple(tensor.shape)) for site, tensor in tensors.items()}
    head, order = write_header(table, write_manifest(manifest, name))
    data = head + b"".join(_to_bytes(tensors[site]) for site in order)
    if len(head) - 8 > MAX_HEADER or len(data) > MAX_FILE:
        raise refused(name, f"it would take {len(data):,} bytes of at most {MAX_FILE:,} (header: {MAX_HEADER:,})")
    return data


def decode(data: bytes, name: str = "prompt") -> tuple[dict[str, Tensor], Manifest]:
    """Return the tensors and the manifest of a prompt file, all of its rules checked.

    Args:
        data: the file's bytes.
        name: what to call the prompt in an error.

    Raises:
        PromptFileError: it breaks a rule of `docs/prompt-file.md`; the message says which.
    """
    header = read_header(data, len(data), name)
    manifest = read_manifest(header, name)
    tensors = {site: _from_bytes(data, header, site) for site in sorted(header.entries)}
    for site, tensor in tensors.items():
        check_finite(site, tensor, name)
    return tensors, manifest


def dtype_name(site: str, tensor: Tensor, name: str) -> str:
    """Return what a file calls the dtype of `tensor`.

    Raises:
        PromptFileError: a dtype that a file cannot hold.
    """
    if tensor.dtype not in _NAMES:
        raise refused(name, f"the tensor `{site}` is {tensor.dtype}; a prompt has float32, bfloat16 or float16")
    return _NAMES[tensor.dtype]


def check_finite(site: str, tensor: Tensor, name: str) -> None:
    """Refuse a tensor that holds a NaN or an infinity.

    Raises:
        PromptFileError: it does; the message counts them.
    """
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise refused(name, f"{bad} of the {tensor.numel()} numbers of `{site}` are NaN or infinite; train it again")


def _to_bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().tobytes()


def _from_bytes(data: bytes, header: Header, site: str) -> Tensor:
    entry = header.entries[site]
    own = bytearray(data[header.size + entry.begin : header.size + entry.end])
    return torch.frombuffer(own, dtype=_DTYPES[entry.dtype]).reshape(entry.shape)

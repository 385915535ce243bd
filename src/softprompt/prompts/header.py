"""The container of a prompt file: a safetensors header, checked whole before a tensor is touched.

Nothing here needs torch, so that a thousand prompts can be listed without loading it. The format is
specified in `docs/prompt-file.md`.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from softprompt.errors import PromptFileError, StorageError
from softprompt.prompts.canonical import parse
from softprompt.prompts.sites import check_site

MAX_FILE = 64 * 2**20
MAX_HEADER = 2**20
KEY = "softprompt"

WIDTHS = {"F32": 4, "BF16": 2, "F16": 2}
"""Bytes of one number by dtype, in the order in which a file lists its tensors."""

_ORDER = list(WIDTHS)
_PREFIX = 8
_MOST_SAID = 1200
_AGAIN = "the file is damaged; save or fetch it again"


class Entry(NamedTuple):
    """One tensor of the header; `begin` and `end` count from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """What stands in front of the tensors: their places, and the manifest as text."""

    entries: dict[str, Entry]
    manifest: str
    size: int


def refused(name: str, reason: str) -> PromptFileError:
    """Build the one error of a prompt called `name` that cannot be used; what a file says is quoted on one line."""
    return PromptFileError(f"`{_quoted(name)}` cannot be used as a prompt: {_quoted(reason)}")


def _quoted(text: str) -> str:
    """A text of someone else's, as it may stand in a message: no control characters, and no more than a screen."""
    if len(text) > _MOST_SAID:
        text = f"{text[: _MOST_SAID // 2]} ... {text[-_MOST_SAID // 2 :]}"
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def write_header(tensors: Mapping[str, tuple[str, tuple[int, ...]]], manifest: str) -> tuple[bytes, list[str]]:
    """Return the header's bytes, length included, and the order in which the tensors follow.

    Args:
        tensors: dtype and shape by site.
        manifest: the canonical JSON of the prompt.
    """
    order = sorted(tensors, key=lambda site: (_ORDER.index(tensors[site][0]), site))
    table: dict[str, Any] = {"__metadata__": {KEY: manifest}}
    end = 0
    for site in order:
        dtype, shape = tensors[site]
        begin, end = end, end + prod(shape) * WIDTHS[dtype]
        table[site] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % _PREFIX)
    return len(text).to_bytes(_PREFIX, "little") + text, order


def read_header(head: bytes, size: int, name: str) -> Header:
    """Return the header at the start of `head`, every rule of the container checked.

    Args:
        head: the file's first bytes, the header at least.
        size: how many bytes the whole file has.
        name: what to call the file in an error.

    Raises:
        PromptFileError: too large, cut short, or not a prompt file by any rule of its container.
    """
    if size > MAX_FILE:
        raise refused(name, f"it has {size:,} bytes, and a prompt has at most {MAX_FILE:,}; is it a model?")
    length = _header_length(head, size, name)
    table = _table(head[_PREFIX : _PREFIX + length], name)
    manifest = _manifest(table.pop("__metadata__", None), name)
    entries = {site: _entry(site, entry, name) for site, entry in table.items()}
    _check_extents(entries, size - _PREFIX - length, name)
    return Header(entries, manifest, _PREFIX + length)


def read_bytes(path: Path) -> bytes:
    """Return a prompt file's bytes, never more than a prompt may have.

    Raises:
        PromptFileError: no such file, not a regular file, or too large.
        StorageError: it may not be read.
    """
    size = _size(path)
    if size > MAX_FILE:
        raise refused(path.name, f"it has {size:,} bytes, and a prompt has at most {MAX_FILE:,}; is it a model?")
    return _read(path, MAX_FILE + 1)


def read_head(path: Path) -> tuple[bytes, int]:
    """Return a file's first bytes, as many as a header may have, and the size of the whole.

    Raises:
        PromptFileError: no such file, or not a regular file.
        StorageError: it may not be read.
    """
    return _read(path, _PREFIX + MAX_HEADER), _size(path)


def _size(path: Path) -> int:
    try:
        found = os.stat(path)
    except FileNotFoundError as error:
        raise PromptFileError(f"there is no prompt file `{path}`; check the path") from error
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot read `{path}`: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise PromptFileError(f"`{path}` is not a file; a prompt is one file, usually named `.safetensors`")
    return found.st_size


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(limit)
    except OSError as error:
        raise StorageError(f"cannot read `{path}`: {error.strerror or error}") from error


def _header_length(head: bytes, size: int, name: str) -> int:
    if size < _PREFIX + 2 or len(head) < _PREFIX:
        raise refused(name, f"it has only {size} bytes; {_AGAIN}")
    length = int.from_bytes(head[:_PREFIX], "little")
    if length > MAX_HEADER:
        raise refused(name, f"its header claims {length:,} bytes of at most {MAX_HEADER:,}; it is no prompt file")
    if _PREFIX + length > min(size, len(head)):
        raise refused(name, f"it ends after {size} bytes, inside its header of {length}; {_AGAIN}")
    return length


def _table(text: bytes, name: str) -> dict[str, Any]:
    try:
        if not text.startswith(b"{"):
            raise ValueError("it does not begin with a brace")
        table = parse(text.decode("utf-8"))
    except ValueError as error:
        raise refused(name, f"its header is not the JSON of a safetensors file ({error}); {_AGAIN}") from error
    assert isinstance(table, dict)  # JSON text that begins with a brace
    return table


def _manifest(metadata: object, name: str) -> str:
    manifest = metadata.get(KEY) if isinstance(metadata, dict) and len(metadata) == 1 else None
    if not isinstance(manifest, str):
        found = ", ".join(f"`{key}`" for key in metadata) if isinstance(metadata, dict) and metadata else "none"
        raise refused(name, f"its metadata must be the one key `{KEY}`, and has {found}; softprompt did not write it")
    return manifest


def _entry(site: str, entry: object, name: str) -> Entry:
    """One row of the header's table, its types and its arithmetic checked."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise refused(name, f"the header's entry for `{site}` is not a dtype, a shape and two offsets; {_AGAIN}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise refused(name, f"the tensor `{site}` has dtype `{dtype}`; a prompt has {', '.join(WIDTHS)}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise refused(name, f"the shape or the offsets of `{site}` are not lists of whole numbers; {_AGAIN}")
    reason = check_site(site, shape)
    if reason:
        raise refused(name, reason)
    begin, end = offsets
    if end - begin != prod(shape) * WIDTHS[dtype]:
        raise refused(name, f"the tensor `{site}` has {end - begin} bytes, not those of {dtype} {shape}; {_AGAIN}")
    return Entry(dtype, tuple(shape), begin, end)


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _check_extents(entries: dict[str, Entry], available: int, name: str) -> None:
    """Together the tensors must fill what follows the header: no hole, no overlap, nothing behind."""
    end = 0
    for site, entry in sorted(entries.items(), key=lambda item: item[1].begin):
        if entry.begin != end:
            what = "a hole before" if entry.begin > end else "bytes shared with another tensor by"
            raise refused(name, f"there is {what} `{site}`; {_AGAIN}")
        end = entry.end
    if end > available:
        raise refused(name, f"it ends {end - available} bytes too early; it was cut short, so save or fetch it again")
    if end < available:
        raise refused(name, f"{available - end} bytes follow its last tensor; {_AGAIN}")

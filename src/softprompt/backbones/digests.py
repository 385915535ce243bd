"""Digests of files and of what is in them, remembered by path, size and time of change.

Hashing half a gigabyte takes a second; asking whether the file changed takes none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from softprompt import durable
from softprompt.backbones.fingerprint import canonical_digest
from softprompt.errors import StorageError
from softprompt.home import cache_dir

_HEX = set("0123456789abcdef")


def remembered(kind: str, files: Sequence[Path], compute: Callable[[], str]) -> str:
    """Return the sha256 (hex) that `compute` gives for `files`, from the cache while none of them has changed.

    Args:
        kind: what is computed: one word a computation, with its version.
        files: what the digest depends on.
        compute: makes the digest; called when it is not remembered.
    """
    entry = cache_dir() / "digests" / canonical_digest([kind, [_identity(path) for path in sorted(files)]])
    with suppress(OSError, UnicodeDecodeError):
        found = entry.read_text("ascii")
        if len(found) == 64 and set(found) <= _HEX:
            return found
    digest = compute()
    with suppress(StorageError):  # a cache that cannot be written costs a second next time, and no more
        durable.write_text(entry, digest)
    return digest


def file_digest(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes, remembered while the file does not change."""
    return remembered("sha256", [path], lambda: hashed(path))


def hashed(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes, read now."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _identity(path: Path) -> list[str | int]:
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]

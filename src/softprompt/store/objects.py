"""Immutable files, each named by the sha256 of its bytes."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from softprompt.durable import write_bytes
from softprompt.errors import ConfigError, StorageError, UnknownNameError
from softprompt.prompts.header import MAX_FILE
from softprompt.store.layout import Layout, files, reading

_PREFIX = re.compile(r"[0-9a-f]{8,64}")


class Objects:
    """The files of one store, by digest.

    Args:
        layout: where they lie.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def put(self, data: bytes) -> str:
        """Keep `data` and return its digest; a damaged copy that lies there is made good.

        Raises:
            StorageError: the disk is full, or the folder may not be written.
        """
        digest = hashlib.sha256(data).hexdigest()
        path = self._layout.object(digest)
        if self._holds(path, data):
            with suppress(OSError):
                os.utime(path)  # young again, in the eyes of garbage collection
        else:
            write_bytes(path, data)
        return digest

    def read(self, digest: str) -> bytes:
        """Return the bytes of that digest.

        Raises:
            StorageError: they are gone, may not be read, or do not match their name.
        """
        path = self._layout.object(digest)
        try:
            with reading(path), path.open("rb") as stream:
                data = stream.read(MAX_FILE + 1)
        except StorageError as error:
            if not path.exists():
                raise StorageError(
                    f"the store has lost the object sha256:{digest}; put that prompt again, or restore `{path}`"
                ) from error
            raise
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            raise StorageError(
                f"the object sha256:{digest} is damaged: its bytes have the digest {found[:12]}…; "
                f"put that prompt again, or restore `{path}`"
            )
        return data

    def path(self, digest: str) -> Path:
        """Return where the object of that digest lies, or would."""
        return self._layout.object(digest)

    def find(self, prefix: str) -> str:
        """Return the one digest that begins with `prefix`, at least 8 hex digits.

        Raises:
            ConfigError: no such digits, or several digests begin so.
            UnknownNameError: no digest begins so.
        """
        if not _PREFIX.fullmatch(prefix):
            raise ConfigError(f"`sha256:{prefix}` is not a digest; give 8 to 64 hex digits after `sha256:`")
        folder = self._layout.objects / prefix[:2]
        found = [d for d in (prefix[:2] + path.name for path in files(folder)) if d.startswith(prefix)]
        if not found:
            raise UnknownNameError(f"the store has no object `sha256:{prefix}`; see `softprompt prompts list`")
        if len(found) > 1:
            raise ConfigError(f"`sha256:{prefix}` begins {len(found)} digests; give more digits of it")
        return found[0]

    def all(self) -> Iterator[str]:
        """Yield every digest, in order."""
        for folder in files(self._layout.objects):
            for path in files(folder) if folder.is_dir() else []:
                digest = folder.name + path.name
                if _PREFIX.fullmatch(digest) and len(digest) == 64:
                    yield digest

    def _holds(self, path: Path, data: bytes) -> bool:
        with reading(path):
            return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data

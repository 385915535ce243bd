"""Writing so that a reader, or a kill at any moment, never meets half a file."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from softprompt.errors import StorageError


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """Turn an `OSError` into one that says what could not be written and why."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write `{path}`: {error.strerror or error}; nothing was left half-written"
        ) from error


@contextmanager
def _beside(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a new file in the folder of `path`; whatever happens, it is gone afterwards unless it was moved."""
    with _said(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        try:
            with part.open("xb") as stream:  # not tempfile, whose files only their owner may read
                yield stream, part
        finally:
            part.unlink(missing_ok=True)


def _flush(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside `path` that takes its place, whole, when the block ends well.

    The bytes reach the disk before the name does, so a crash leaves the old file or the new one.

    Raises:
        StorageError: the disk is full, or the folder may not be written.
    """
    with _beside(path) as (stream, part):
        yield stream
        _flush(stream)
        stream.close()
        os.replace(part, path)
        _sync_folder(path.parent)


def claim(path: Path, text: str) -> bool:
    """Put `text` at `path`, whole and for good, unless something is there; return whether it was put.

    A hard link fails where the name is taken, so that of several writers exactly one succeeds.

    Raises:
        StorageError: the disk is full, the folder may not be written, or its file system has no hard links.
    """
    with _beside(path) as (stream, part):
        stream.write(text.encode("utf-8"))
        _flush(stream)
        try:
            os.link(part, path)
        except FileExistsError:
            return False
        _sync_folder(path.parent)
    return True


def write_bytes(path: Path, data: bytes) -> None:
    """Put `data` at `path`, whole or not at all.

    Raises:
        StorageError: the disk is full, or the folder may not be written.
    """
    with replacing(path) as stream:
        stream.write(data)


def write_text(path: Path, text: str) -> None:
    """Put `text`, as UTF-8, at `path`, whole or not at all.

    Raises:
        StorageError: the disk is full, or the folder may not be written.
    """
    write_bytes(path, text.encode("utf-8"))


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut; a platform that cannot sync a folder is left as it is."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)

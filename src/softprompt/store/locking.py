"""One lock a store: writers share it, garbage collection has it alone; a killed process lets go of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from softprompt.errors import StorageError


@contextmanager
def holding(path: Path, *, alone: bool = False) -> Iterator[None]:
    """Hold the lock of the file `path` while the block runs.

    Where the system has no such locks, the age limit of garbage collection is what keeps writers safe.

    Args:
        path: the lock's file; made if it is not there.
        alone: wait until nobody else holds it, and keep all others out.

    Raises:
        StorageError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise StorageError(f"cannot write the store `{path.parent}`: {error.strerror or error}") from error
    try:
        _wait(descriptor, alone)
        yield
    finally:
        os.close(descriptor)


def _wait(descriptor: int, alone: bool) -> None:
    if sys.platform != "win32":
        import fcntl

        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)

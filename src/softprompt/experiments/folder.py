"""The folder of an experiment: what it is, and which process is at which part of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from softprompt import durable
from softprompt.errors import ConfigError, StorageError


class ExperimentFolder:
    """A folder in which several processes may work at once, and in which a kill at any moment is survived.

    `experiment.json` says what is done here; it is written once, by whoever comes first. A part of the work is
    held by a lock of the operating system, which ends with the process that holds it: `kill -9` frees it too.

    Args:
        path: the folder; made when something is first written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, definition: Mapping[str, Any]) -> None:
        """Say what is done here, or check that it is what has been done here so far.

        Raises:
            ConfigError: the folder holds another experiment.
            StorageError: the folder cannot be written, or its definition cannot be read.
        """
        file = self.path / "experiment.json"
        durable.claim(file, _canonical(definition) + "\n")
        found, asked = _read(file), json.loads(_canonical(definition))
        different = sorted(key for key in {*found, *asked} if found.get(key) != asked.get(key))
        if different:
            key = different[0]
            raise ConfigError(
                f"`{self.path}` holds an experiment with {key} = {found.get(key)!r}, this one has "
                f"{asked.get(key)!r}; repeat its settings, or name another folder"
            )

    @contextmanager
    def held(self, part: str, *, wait: bool = False) -> Iterator[bool]:
        """Hold a part of the work for as long as the block runs; give whether this process has it.

        Args:
            part: what to call it.
            wait: until another process lets it go; otherwise that is a `False`.
        """
        lock = self.claim(part, wait=wait)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.release()

    def claim(self, part: str, *, wait: bool = False) -> FileLock | None:
        """Return a lock that holds a part of the work until it is released, `None` where another process has it."""
        locks = self.path / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locks / f"{part}.lock", is_singleton=False)
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            return None
        return lock


def digest_of(definition: Mapping[str, Any]) -> str:
    """Return eight hexadecimal digits that stand for a definition.

    >>> digest_of({"a": 1}) == digest_of({"a": 1.0})
    False
    """
    return hashlib.sha256(_canonical(definition).encode("utf-8")).hexdigest()[:8]


def named(text: str) -> str:
    """Return a text as a part of a file name; different texts have different names.

    >>> named("gemma-3-270m"), named("org/model")
    ('gemma-3-270m', 'org-model-c87c0c64')
    """
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in text).strip(".")[-60:]
    return safe if safe == text else f"{safe}-{hashlib.sha256(text.encode('utf-8')).hexdigest()[:8]}"


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)


def _read(file: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StorageError(f"`{file}` is damaged ({error}); name another folder, or take this one away") from error
    return loaded

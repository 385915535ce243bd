"""When the names of a store last changed, asked in microseconds, so that many can be watched."""

from __future__ import annotations

import os
from pathlib import Path

from softprompt.errors import StorageError
from softprompt.store.layout import Layout, is_name
from softprompt.store.names import Names

Stamp = tuple[int, int]
"""When a name's versions and its tags last changed, in nanoseconds since 1970; 0: never."""


class Stamps:
    """The folders of one store's names.

    Args:
        root: the store's folder; it need not exist yet.
    """

    def __init__(self, root: Path) -> None:
        layout = Layout(root)
        self._folder = layout.names
        self._names = Names(layout)
        self._alive: dict[str, tuple[int, bool]] = {}

    def of(self, name: str) -> Stamp:
        """Return the stamp of a name; one that is not there has never changed."""
        folder = os.path.join(self._folder, name)
        return _changed(os.path.join(folder, "versions")), _changed(os.path.join(folder, "tags"))

    def names(self) -> tuple[str, ...]:
        """Return every name that has a version, in order; those that have not changed are not read again."""
        found = {}
        for name in _folders(self._folder):
            stamp = self.of(name)[0]
            known = self._alive.get(name)
            found[name] = known if known is not None and known[0] == stamp else (stamp, self._is_alive(name))
        self._alive = found
        return tuple(sorted(name for name, (_, alive) in found.items() if alive))

    def _is_alive(self, name: str) -> bool:
        """Whether a name has a version: nearly always its newest, which one look tells; else the store's own rules."""
        if _first_line(self._newest(name)).startswith("sha256:"):
            return True
        return self._names.alive(name)

    def _newest(self, name: str) -> str:
        folder = os.path.join(self._folder, name, "versions")
        try:
            return os.path.join(folder, max(os.listdir(folder), default=""))
        except OSError:
            return folder


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.readline(100)
    except OSError:
        return ""


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as found:
            return [each.name for each in found if is_name(each.name) and each.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"cannot read `{folder}` of the store: {error.strerror or error}") from error


def _changed(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0

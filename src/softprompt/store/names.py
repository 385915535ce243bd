"""Names, their numbered versions and their tags: one-line files, each whole or not there.

A version's number is claimed by a hard link, which fails where the number is taken, so that of two writers
one gets it and the other takes the next. A number is never used twice: a removed version leaves a mark.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from softprompt.durable import claim, write_text
from softprompt.errors import ConfigError, StorageError, UnknownNameError, VersionConflictError
from softprompt.registry import unknown_name
from softprompt.store.layout import Layout, check_digest, check_name, files, is_name, reading

_REMOVED = "removed"
_NUMBER = re.compile(r"[0-9]{6,12}")
_RESERVED = re.compile(r"latest|v[0-9]+")


@dataclass(frozen=True)
class Version:
    """One version of a name.

    Args:
        name: the prompt's name.
        number: from 1 up.
        digest: sha256 of the file, in hex.
        tags: tags that stand on it now.
        saved: when it was put, in seconds since 1970; the store's knowledge, not the file's.
    """

    name: str
    number: int
    digest: str
    tags: tuple[str, ...] = ()
    saved: float = 0.0

    def __str__(self) -> str:
        return f"{self.name}@v{self.number}"


class Names:
    """The names of one store.

    Args:
        layout: where they lie.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def all(self) -> list[str]:
        """Return every name that has a version, damaged ones included."""
        return [name for name in self.folders() if self.alive(name)]

    def folders(self) -> list[str]:
        """Return every name that has or had a version; a cheaper question than `all`."""
        return [path.name for path in files(self._layout.names) if path.is_dir() and is_name(path.name)]

    def strays(self) -> list[str]:
        """Return every folder among them that no prompt can be called: somebody's copies, for instance."""
        return [path.name for path in files(self._layout.names) if path.is_dir() and not is_name(path.name)]

    def add(self, name: str, digest: str, after: int | None = None) -> int:
        """Make `digest` the next version of `name` and return its number; if it is the latest already, that one's.

        Args:
            name: the prompt's name.
            digest: of its file.
            after: the number of what must be the latest version, 0: there must be none; `None`: whichever is.

        Raises:
            VersionConflictError: the latest version is another than `after`.
            StorageError: the disk is full, or the folder may not be written.
        """
        while True:
            # The number before what is newest: whoever comes in between makes the claim fail, and is seen next time.
            number = max(self._numbers(name), default=0) + 1
            newest = self._newest(name)
            if newest and newest[1] == digest:
                return newest[0]
            latest = newest[0] if newest else 0
            if after is not None and latest != after:
                raise _conflict(name, after, latest)
            if claim(self._layout.version(name, number), f"sha256:{digest}\n"):
                return number

    def versions(self, name: str) -> tuple[Version, ...]:
        """Return the versions of `name`, oldest first.

        Raises:
            UnknownNameError: no such name; the nearest are offered.
            StorageError: one of its files is damaged.
        """
        tags = self.tags(name)
        found = (self._version(name, number, tags) for number in self._numbers(name))
        versions = tuple(version for version in found if version)
        if not versions:
            raise unknown_name("prompt", name, self.all())
        return versions

    def find(self, name: str, version: str = "latest") -> Version:
        """Return a version by `latest`, by number (`v3`) or by tag.

        Raises:
            UnknownNameError: no such name, version or tag; what there is, is said.
            StorageError: its file is damaged.
        """
        newest = self._newest(name) if version == "latest" else None
        tags = self.tags(name)
        if newest:
            number = newest[0]
        elif re.fullmatch(r"v[0-9]{1,12}", version):
            number = int(version[1:])
        else:
            number = tags.get(version, 0)
        found = self._version(name, number, tags)
        if not found:
            raise self._unknown(name, version, tags)
        return found

    def tags(self, name: str) -> dict[str, int]:
        """Return the tags of `name` and the numbers that they stand on.

        Raises:
            StorageError: one of their files is damaged.
        """
        found = {}
        for path in files(self._layout.tags(name)):
            line = _line(self._layout.tag(name, path.name))
            if line is None:
                continue  # taken away just now
            if not re.fullmatch(r"v[0-9]{1,12}", line):
                raise StorageError(f"the tag `{name}@{path.name}` is damaged: it says `{line[:40]}`; set it again")
            found[path.name] = int(line[1:])
        return found

    def set_tag(self, name: str, tag: str, number: int) -> None:
        """Let `tag` stand on that version, wherever it stood before."""
        write_text(self._layout.tag(name, check_tag(tag)), f"v{number}\n")

    def drop_tag(self, name: str, tag: str) -> None:
        """Take a tag away.

        Raises:
            UnknownNameError: the name has no such tag.
            StorageError: the folder may not be written.
        """
        path = self._layout.tag(name, tag)
        try:
            path.unlink()
        except FileNotFoundError as error:
            raise unknown_name(f"tag of `{name}`", tag, self.tags(name)) from error
        except OSError as error:
            raise StorageError(f"cannot remove `{path}`: {error.strerror or error}") from error

    def drop(self, version: Version) -> None:
        """Remove a version and its tags; its number is not used again."""
        for tag in version.tags:
            self.drop_tag(version.name, tag)
        write_text(self._layout.version(version.name, version.number), f"{_REMOVED}\n")

    def stamp(self, name: str) -> tuple[int, int]:
        """Return when the versions and the tags of `name` last changed, in nanoseconds (0: never)."""
        return _changed(self._layout.versions(name)), _changed(self._layout.tags(name))

    def _version(self, name: str, number: int, tags: Mapping[str, int]) -> Version | None:
        """One version with those of `tags` that stand on it; None if it is not there, or no more."""
        digest = self._digest(name, number)
        if not digest:
            return None
        path = self._layout.version(name, number)
        with reading(path):
            saved = path.stat().st_mtime
        return Version(name, number, digest, tuple(tag for tag, on in tags.items() if on == number), saved)

    def _unknown(self, name: str, version: str, tags: Mapping[str, int]) -> UnknownNameError:
        """The error for a name, a version or a tag that is not there, with what is."""
        if not self.alive(name):
            return unknown_name("prompt", name, self.all())
        if not _RESERVED.fullmatch(version):
            return unknown_name(f"tag of `{name}`", version, tags)
        known = ", ".join(f"v{number}" for number in self._numbers(name) if self._version(name, number, {}))
        return UnknownNameError(f"`{name}` has no version `{version}`; it has {known}")

    def alive(self, name: str) -> bool:
        """Return whether `name` has a version that was not removed; a damaged one counts."""
        try:
            return self._newest(name) is not None
        except StorageError:
            return True

    def _newest(self, name: str) -> tuple[int, str] | None:
        for number in reversed(self._numbers(name)):
            digest = self._digest(name, number)
            if digest:
                return number, digest
        return None

    def _numbers(self, name: str) -> list[int]:
        """Every number ever claimed, ascending."""
        found = (path.name for path in files(self._layout.versions(name)))
        return sorted(int(number) for number in found if _NUMBER.fullmatch(number))

    def _digest(self, name: str, number: int) -> str | None:
        """What a version stands for; None if it was removed or never was."""
        path = self._layout.version(name, number)
        line = _line(path)
        if line is None or line == _REMOVED:
            return None
        try:
            return check_digest(line)
        except ConfigError as error:
            raise StorageError(
                f"the version `{name}@v{number}` is damaged: its file says `{line[:40]}`; "
                f"put the prompt again and delete `{path}`"
            ) from error


def check_tag(tag: str) -> str:
    """Return `tag` if it may be one.

    Raises:
        ConfigError: it is `latest`, looks like a version, or cannot be a name.
    """
    if _RESERVED.fullmatch(tag):
        raise ConfigError(f"`{tag}` cannot be a tag, for it means a version already; take another, `prod` for instance")
    return check_name("tag", tag)


def _conflict(name: str, after: int, latest: int) -> VersionConflictError:
    found = f"the latest `{name}` is v{latest}" if latest else f"there is no `{name}`"
    meant = f"v{after} was to be followed" if after else "this was to be the first"
    return VersionConflictError(f"{found}, and {meant}: somebody was quicker; look at what is there first")


def _line(path: Path) -> str | None:
    """The one line of a file; None if there is no such file."""
    with reading(path):
        try:
            with path.open("rb") as stream:
                return stream.read(200).decode("utf-8", "replace").strip()
        except FileNotFoundError:
            return None


def _changed(folder: Path) -> int:
    with reading(folder):
        try:
            return folder.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

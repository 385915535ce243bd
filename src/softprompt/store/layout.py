"""Where in its folder a store keeps what, and which names may become paths."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from softprompt.errors import ConfigError, StorageError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def check_name(kind: str, name: str) -> str:
    """Return `name` if a prompt, a tag or an evaluation may be called so.

    Raises:
        ConfigError: it may not; the message says what may.

    >>> check_name("prompt", "tweet-sentiment.es")
    'tweet-sentiment.es'
    """
    if not is_name(name):
        raise ConfigError(
            f"no {kind} can be called `{name}`; use 1 to 64 of a-z, 0-9, `.`, `_` and `-`, "
            "with a letter or a digit first"
        )
    return name


def is_name(name: str) -> bool:
    """Tell whether a prompt, a tag or an evaluation may be called `name`.

    >>> is_name("mail"), is_name("Old copies")
    (True, False)
    """
    return _NAME.fullmatch(name) is not None


def check_digest(digest: str) -> str:
    """Return the 64 hex digits of `digest`, which may begin with `sha256:`.

    Raises:
        ConfigError: it is no digest.
    """
    found = digest.removeprefix("sha256:")
    if not _DIGEST.fullmatch(found):
        raise ConfigError(f"`{digest}` is not a digest; it is written `sha256:` and 64 hex digits")
    return found


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into one that says what could not be read and why.

    Raises:
        StorageError: the block met an `OSError`.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"cannot read `{path}` of the store: {error.strerror or error}") from error


class Layout:
    """The paths of one store; none leads out of its folder.

    Args:
        root: the store's folder; it need not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()

    @property
    def objects(self) -> Path:
        """The folder of the files themselves."""
        return self._inside(self.root / "objects")

    @property
    def names(self) -> Path:
        """The folder that holds one folder per name."""
        return self._inside(self.root / "names")

    @property
    def index(self) -> Path:
        """The SQLite index, which may be deleted at any time."""
        return self.root / "index.sqlite"

    @property
    def lock(self) -> Path:
        """The file whose lock keeps garbage collection apart from writing."""
        return self._inside(self.root / "lock")

    def object(self, digest: str) -> Path:
        """Where the file of that digest lies."""
        digest = check_digest(digest)
        return self._inside(self.objects / digest[:2] / digest[2:])

    def versions(self, name: str) -> Path:
        """The folder of a name's versions, one file each."""
        return self._inside(self.names / check_name("prompt", name) / "versions")

    def version(self, name: str, number: int) -> Path:
        """The one-line file of one version."""
        return self._inside(self.versions(name) / f"{number:06d}")

    def tags(self, name: str) -> Path:
        """The folder of a name's tags, one file each."""
        return self._inside(self.names / check_name("prompt", name) / "tags")

    def tag(self, name: str, tag: str) -> Path:
        """The one-line file of one tag."""
        return self._inside(self.tags(name) / check_name("tag", tag))

    def evaluations(self, digest: str) -> Path:
        """The folder of a prompt's later evaluations."""
        return self._inside(self.root / "evaluations" / check_digest(digest))

    def evaluation(self, digest: str, name: str) -> Path:
        """The file of one evaluation."""
        return self._inside(self.evaluations(digest) / f"{check_name('evaluation', name)}.json")

    def _inside(self, path: Path) -> Path:
        """Return `path` unless a symbolic link on the way leads out of the store."""
        with reading(path):
            try:
                found = path.resolve()
            except RuntimeError as error:  # links in a circle
                raise StorageError(f"`{path}` is a symbolic link to itself; remove it") from error
        if not found.is_relative_to(self.root):
            raise StorageError(f"`{path}` leads out of the store, to `{found}`; remove that symbolic link")
        return path


def files(folder: Path) -> list[Path]:
    """Return what lies in `folder`, sorted, without what begins with a dot; nothing if there is no such folder."""
    with reading(folder):
        try:
            return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        except FileNotFoundError:
            return []

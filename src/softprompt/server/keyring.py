"""Keys: who may call, which prompts each may use, and how much. One file, which holds no key, only their hashes."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from softprompt.durable import replacing
from softprompt.errors import ConfigError, StorageError
from softprompt.home import home
from softprompt.registry import unknown_name

logger = logging.getLogger(__name__)

PREFIX = "sp-"
"""What every key begins with, so that one that leaked into a repository is found by its looks."""
EVERYTHING = ("*",)
_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Key:
    """One caller.

    Args:
        name: who it is: what logs say.
        sha256: the hash of the key itself, 64 hex digits.
        prompts: patterns as in a shell, `support-*`; it may use a prompt, or the bare backbone, that one of them fits.
        manage: whether it may upload, tag and delete those prompts.
        watch: whether it may read the metrics, in which names of prompts stand.
        requests_per_minute: at most; `None`: no limit.
        tokens_per_minute: read and written, at most; `None`: no limit.
        made: when, in seconds since 1970.
    """

    name: str
    sha256: str
    prompts: tuple[str, ...] = EVERYTHING
    manage: bool = False
    watch: bool = False
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    made: float = 0.0

    def fits(self, prompt: str) -> bool:
        """Tell whether it may use the prompt that a reference names, whatever its version.

        >>> key = Key("ci", "", prompts=("support-*",))
        >>> key.fits("support-reply@v3"), key.fits("sentiment"), key.fits("sha256:0123abcd")
        (True, False, False)
        """
        if prompt.startswith("sha256:"):  # it says no name, so only a key for everything may have it
            return "*" in self.prompts
        name = prompt.partition("@")[0]
        return any(fnmatchcase(name, pattern) for pattern in self.prompts)


def digest_of(key: str) -> str:
    """Return what a file keeps of a key; 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(key.encode("utf-8")).hexdigest()


def default_path() -> Path:
    """Return where the keys are, unless another file is named."""
    return home() / "keys.json"


def read_keys(path: Path) -> tuple[Key, ...]:
    """Return the keys of a file, in its order.

    Raises:
        StorageError: it may not be read.
        ConfigError: it holds something else than keys.
    """
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise StorageError(f"cannot read the keys in `{path}`: {error.strerror or error}") from error
    try:
        data = json.loads(text)
        if data["version"] != _VERSION:
            raise ValueError(f"its version is {data['version']!r}, known is {_VERSION}")
        return tuple(_checked(each) for each in data["keys"])
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"`{path}` is no file of keys: {type(error).__name__}: {error}; see `softprompt keys`"
        ) from None


def _checked(given: dict[str, Any]) -> Key:
    """One key of the file; a wrong type must not turn into a right."""
    key = Key(**{**given, "prompts": tuple(given["prompts"])})
    limits = (key.requests_per_minute, key.tokens_per_minute)
    numbers = all(each is None or (isinstance(each, int | float) and each > 0) for each in limits)
    texts = all(isinstance(each, str) for each in (key.name, key.sha256, *key.prompts))
    rights = isinstance(key.manage, bool) and isinstance(key.watch, bool) and isinstance(given["prompts"], list)
    if not (texts and numbers and rights):
        raise ValueError(f"the key `{key.name}` has a field of a wrong type")
    return key


class Keyring:
    """The keys of one file, read again when it changes.

    A file that cannot be understood after a change leaves the keys as they were, and so does one that cannot be read,
    until it can; one that is gone leaves none.

    Args:
        path: the file, which must be there.

    Raises:
        StorageError: the file may not be read.
        ConfigError: it holds something else than keys.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp = _stamp(path)
        self._keys = read_keys(path)
        self._unread = ""  # why the file could not be read when it was last tried

    def __len__(self) -> int:
        self._refresh()
        return len(self._keys)

    def find(self, key: str) -> Key | None:
        """Return who calls with this key; every hash is compared, so that time tells nothing."""
        self._refresh()
        asked, found = digest_of(key), None
        for each in self._keys:
            if hmac.compare_digest(asked, each.sha256):
                found = each
        return found

    def _refresh(self) -> None:
        stamp = _stamp(self.path)
        if stamp == self._stamp and not self._unread:
            return
        before, self._unread = self._unread, ""
        self._stamp = stamp
        if stamp is None:
            self._keys = ()
            logger.error(
                "the file of keys `%s` is gone, so nobody is let in; `softprompt keys add` makes it", self.path
            )
            return
        try:
            self._keys = read_keys(self.path)
        except ConfigError as error:
            logger.error("the keys stay as they were, for the file has changed and cannot be used: %s", error)
        except StorageError as error:  # of a moment, as when no descriptor is free: the next call reads again
            self._unread = str(error)
            if self._unread != before:
                logger.error("the keys stay as they were until the file can be read, for it has changed: %s", error)


def add_key(path: Path, name: str, **rights: Any) -> str:
    """Make a key, keep its hash in the file, which is made if need be, and return the key: nobody can read it again.

    Args:
        path: the file.
        name: 1 to 64 letters, digits, `.`, `_` and `-`, with a letter or a digit first.
        rights: `prompts`, `manage`, `watch`, `requests_per_minute` and `tokens_per_minute` of `Key`.

    Raises:
        ConfigError: the name cannot be one, or is taken; a pattern fits no name; a limit is not above 0.
        StorageError: the file may not be read or written.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"no key can be called `{name}`; use 1 to 64 letters, digits, `.`, `_` and `-`")
    for pattern in rights.get("prompts", ()):
        if set(pattern) & set("@:, "):
            raise ConfigError(f"the pattern `{pattern}` fits no name; give names without version, each by itself")
    for limit in ("requests_per_minute", "tokens_per_minute"):
        if rights.get(limit) is not None and not rights[limit] > 0:
            raise ConfigError(f"{limit.replace('_', ' ')} is {rights[limit]}; give a number above 0, or none at all")
    key = PREFIX + secrets.token_urlsafe(32)
    with _editing(path) as keys:
        if any(each.name == name for each in keys):
            raise ConfigError(f"there is a key called `{name}` in `{path}`; remove it first, or take another name")
        keys.append(Key(name, digest_of(key), made=round(time.time(), 3), **rights))
    return key


def remove_key(path: Path, name: str) -> None:
    """Take a key out of the file; servers that read the file refuse it from now on.

    Raises:
        UnknownNameError: the file has no such key; the nearest are offered.
        ConfigError: the file holds something else than keys.
        StorageError: it may not be read or written.
    """
    with _editing(path) as keys:
        if all(each.name != name for each in keys):
            raise unknown_name("key", name, [each.name for each in keys])
        keys[:] = [each for each in keys if each.name != name]


@contextmanager
def _editing(path: Path) -> Iterator[list[Key]]:
    """Give the keys as a list and write it back, while no other process does the same."""
    from softprompt.store.locking import holding

    with holding(path.with_name(f".{path.name}.lock"), alone=True):
        keys = list(read_keys(path)) if path.exists() else []
        yield keys
        _write(path, keys)


def _write(path: Path, keys: Iterable[Key]) -> None:
    """Put the keys at `path`; only their owner may read even the hashes."""
    text = json.dumps({"version": _VERSION, "keys": [asdict(key) for key in keys]}, ensure_ascii=False, indent=2)
    with replacing(path) as stream:
        os.fchmod(stream.fileno(), 0o600)
        stream.write(f"{text}\n".encode())


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes whenever the file does; `None` if it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size

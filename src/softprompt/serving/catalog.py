"""The live store: what a reference means now, ready to be used, while others put, tag and remove prompts.

Nothing is read before it is asked for. A thread looks whether names that were asked for have changed, by the time
stamps of their folders; it loads and checks a new version first and then puts it in the place of the old one, in one
assignment. What cannot be used is refused and logged, and the version before it goes on.
"""

from __future__ import annotations

import logging
import math
import threading
from dataclasses import dataclass, replace
from time import monotonic, time_ns
from typing import NamedTuple

from softprompt.backbones.backbone import Backbone
from softprompt.errors import (
    ConfigError,
    IncompatiblePromptError,
    PromptFileError,
    SoftPromptError,
    StorageError,
    UnknownNameError,
)
from softprompt.modeling.bound import FEATURES, BoundPrompt
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.registry import unknown_name
from softprompt.serving.shelf import Shelf
from softprompt.serving.stamps import Stamp, Stamps
from softprompt.store.layout import check_name
from softprompt.store.store import PromptStore

MAX_BYTES = 64 * 1024 * 1024
"""Of prompts kept ready."""
_LOG = logging.getLogger("softprompt.serving")
_SETTLED = 2_000_000_000
"""Nanoseconds after which a stamp tells every change: a clock tick may hide a second one."""
_RETRY = 2.0
"""Seconds after which a version that was refused is looked at again, for its file may have been made good."""
_IDLE = 30.0
"""Seconds after its last request at which a name is watched no more; the next request looks itself."""
_AT_ONCE = 2000
"""References looked at in one go, so that watching stays cheap; with more, each has its turn."""


class Served(NamedTuple):
    """What a reference means.

    Attributes:
        id: the reference, as it was asked for.
        name: of the prompt; empty where it was asked for by digest.
        version: its number, from 1 up; 0 where it was asked for by digest.
        digest: sha256 of its file, in hex.
        prompt: the prompt, checked.
    """

    id: str
    name: str
    version: int
    digest: str
    prompt: SoftPrompt


@dataclass(frozen=True, eq=False)
class _Entry:
    """What is known of one reference.

    Attributes:
        name: of the prompt; empty for a digest, which never changes.
        version: that is served, and the digest of its file.
        stamp: of its name's folders when they were last read.
        again: when they are read again whatever their stamp, in seconds of the monotonic clock.
        refused: what was last refused, so that it is logged once.
    """

    name: str
    version: int
    digest: str
    stamp: Stamp = (0, 0)
    again: float = math.inf
    refused: str = ""


class Catalog:
    """Finds prompts of a store for one backbone; any thread may ask.

    Args:
        store: where they are kept.
        backbone: what they are used with.
        allow_other_weights: accept prompts trained on other weights of this architecture.
        max_bytes: of prompts kept ready; others are read again when they are asked for.
        poll: seconds between two looks at the names that are being asked for.
    """

    def __init__(
        self,
        store: PromptStore,
        backbone: Backbone,
        *,
        allow_other_weights: bool = False,
        max_bytes: int = MAX_BYTES,
        poll: float = 0.25,
    ) -> None:
        self._store, self._backbone, self._other = store, backbone, allow_other_weights
        self._stamps = Stamps(store.root)
        self._shelf = Shelf(self._load, max_bytes)
        self._entries: dict[str, _Entry] = {}
        self._seen: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        self._poll = poll
        self._turn = 0
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> Catalog:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def bytes(self) -> int:
        """What prompts that are kept ready take."""
        return self._shelf.bytes

    def start(self) -> None:
        """Begin to watch the names that are asked for."""
        if self._watcher is None:
            self._stop.clear()
            self._watcher = threading.Thread(target=self._watch, name="softprompt-catalog", daemon=True)
            self._watcher.start()

    def close(self) -> None:
        """Watch no more."""
        self._stop.set()
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None

    def names(self) -> tuple[str, ...]:
        """Return every name of the store, in order."""
        return self._stamps.names()

    def find(self, reference: str) -> Served:
        """Return what `name`, `name@v3`, `name@tag` or `sha256:…` means now.

        Raises:
            ConfigError: it cannot be a reference.
            UnknownNameError: no such name, version, tag or digest; the nearest are offered.
            PromptFileError: its file is corrupt or not understood.
            IncompatiblePromptError: it cannot be used with the backbone.
            StorageError: its file is gone, damaged or may not be read.
        """
        now = monotonic()
        self._asked[reference] = now
        entry = self._entries.get(reference)
        if entry is None or now - self._seen.get(reference, -math.inf) > 4 * self._poll:
            try:
                entry = self._look(reference, entry)
            except Exception:
                if reference not in self._entries:  # what was never found leaves nothing behind
                    self._asked.pop(reference, None)
                raise
        return Served(reference, entry.name, entry.version, entry.digest, self._shelf.get(entry.digest))

    def unload(self, digest: str) -> None:
        """Let go of the prompt of a digest, if it is kept ready; its next request reads its file again."""
        self._shelf.drop(digest)

    def look(self) -> None:
        """Look once at all names that are being asked for; the watching thread does this."""
        now = monotonic()
        asked = [each for each in list(self._entries.items()) if now - self._asked.get(each[0], 0.0) <= _IDLE]
        first = self._turn % len(asked) if asked else 0
        self._turn = first + _AT_ONCE
        for reference, entry in [*asked[first:], *asked[:first]][:_AT_ONCE]:
            try:
                self._look(reference, entry)
            except SoftPromptError as error:
                _LOG.debug("`%s` is served no more: %s", reference, error)

    def _watch(self) -> None:
        while not self._stop.wait(self._poll):
            try:
                self.look()
            except Exception:  # noqa: BLE001 - a folder that cannot be read now may be in a moment
                _LOG.exception("the store could not be watched; it is tried again in %g s", self._poll)

    def _look(self, reference: str, entry: _Entry | None) -> _Entry:
        """Bring what is known of a reference up to date."""
        if entry is None:
            entry = self._first(reference)
        elif entry.name:
            stamp = self._stamps.of(entry.name)
            if stamp != entry.stamp or monotonic() >= entry.again:
                entry = self._next(reference, entry, stamp)
        self._entries[reference] = entry
        self._seen[reference] = monotonic()
        return entry

    def _first(self, reference: str) -> _Entry:
        """Find out what a reference means that nobody asked for yet."""
        if reference.startswith("sha256:"):
            entry = _Entry("", 0, self._store.resolve(reference))
        else:
            name = check_name("prompt", reference.partition("@")[0])
            stamp = self._stamps.of(name)
            if not any(stamp):  # the store would read every name's files to find the nearest
                raise unknown_name("prompt", name, self.names())
            version = self._store.version(reference)
            entry = _Entry(version.name, version.number, version.digest, stamp, self._until(stamp))
        self._shelf.get(entry.digest)
        return entry

    def _next(self, reference: str, entry: _Entry, stamp: Stamp) -> _Entry:
        """Find out what a reference means whose name has changed: what it meant, where the new cannot be used."""
        try:
            version = self._store.version(reference)
            if version.digest != entry.digest:
                self._shelf.get(version.digest)
        except UnknownNameError:
            self._forget(reference)
            raise
        except SoftPromptError as error:
            return self._refuse(reference, entry, stamp, str(error))
        if version.digest != entry.digest:
            _LOG.info("`%s` is %s from now on (sha256:%s)", reference, version, version.digest[:12])
        return _Entry(version.name, version.number, version.digest, stamp, self._until(stamp))

    def _refuse(self, reference: str, entry: _Entry, stamp: Stamp, reason: str) -> _Entry:
        if reason != entry.refused:
            _LOG.warning(
                "`%s` has something new that cannot be used, and stays v%d: %s", reference, entry.version, reason
            )
        return replace(entry, stamp=stamp, again=monotonic() + _RETRY, refused=reason)

    def _forget(self, reference: str) -> None:
        for known in (self._entries, self._seen, self._asked):
            known.pop(reference, None)

    def _until(self, stamp: Stamp) -> float:
        """When to read a name again although its stamp is the same: soon, while the stamp is young."""
        return monotonic() + self._poll if time_ns() - max(stamp) < _SETTLED else math.inf

    def _load(self, digest: str) -> SoftPrompt:
        """Read a prompt and check that the backbone can use it."""
        try:
            prompt = self._store.get(f"sha256:{digest}")
        except UnknownNameError as error:
            raise StorageError(f"the store has lost the file sha256:{digest}; put that prompt again") from error
        prompt.check(self._backbone.fingerprint, self._other, name=self._backbone.name, features=FEATURES)
        try:
            BoundPrompt.of(self._backbone, prompt)
        except (ConfigError, IncompatiblePromptError, PromptFileError, StorageError):
            raise
        except SoftPromptError as error:
            raise IncompatiblePromptError(f"the prompt sha256:{digest[:12]} cannot be used here: {error}") from error
        return prompt

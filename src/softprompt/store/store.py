"""`PromptStore`: versioned names over immutable files, in a folder that several processes may use at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from softprompt.errors import ConfigError, UnknownNameError
from softprompt.home import store_dir
from softprompt.prompts.canonical import JSON
from softprompt.store import evaluations, upkeep
from softprompt.store.index import Index, Listing
from softprompt.store.layout import Layout, check_digest, check_name
from softprompt.store.locking import holding
from softprompt.store.names import Names, Version, check_tag
from softprompt.store.objects import Objects

if TYPE_CHECKING:
    from softprompt.prompts.soft_prompt import SoftPrompt
    from softprompt.store.diff import Difference

GRACE = 3600.0
"""Seconds for which garbage collection leaves alone what nothing refers to yet."""


class PromptStore:
    """Keeps prompts under names, with versions and tags.

    A reference is `name` (its latest version), `name@v3`, `name@prod` (a tag) or `sha256:…` (8 or more digits).
    Nothing is ever half-written, and killing a writer loses nothing that was put.

    Args:
        root: the store's folder, made when something is first put; the one under softprompt's home if not given.

    >>> import tempfile
    >>> PromptStore(Path(tempfile.mkdtemp())).list()
    ()
    """

    def __init__(self, root: str | Path | None = None) -> None:
        self._layout = Layout(Path(root) if root is not None else store_dir())
        self._objects = Objects(self._layout)
        self._names = Names(self._layout)
        self._index = Index(self._layout, self._names, self._objects)

    @property
    def root(self) -> Path:
        """The store's folder."""
        return self._layout.root

    def put(self, prompt: SoftPrompt, name: str, *, tags: Sequence[str] = (), after: int | None = None) -> Version:
        """Keep `prompt` as the next version of `name`; if it is the latest already, that version stays the latest.

        Args:
            prompt: what to keep.
            name: 1 to 64 of a-z, 0-9, `.`, `_` and `-`, with a letter or a digit first.
            tags: tags to move to that version.
            after: the number of what must be the latest version, 0: there must be none; `None`: whichever is. Of
                several writers who follow the same version, in whatever processes, one succeeds.

        Returns:
            The version, which is on disk when this returns.

        Raises:
            ConfigError: `name` or a tag cannot be one.
            VersionConflictError: the latest version is another than `after`.
            StorageError: the disk is full, or the folder may not be written.
        """
        check_name("prompt", name)
        for tag in tags:
            check_tag(tag)
        data = prompt.to_bytes()
        with holding(self._layout.lock):
            number = self._names.add(name, self._objects.put(data), after)
            for tag in tags:
                self._names.set_tag(name, tag, number)
            return self._names.find(name, f"v{number}")

    def get(self, reference: str) -> SoftPrompt:
        """Return the prompt that `reference` means.

        Raises:
            UnknownNameError: no such name, version, tag or digest; the nearest are offered.
            StorageError: its file is gone, damaged or may not be read.
            PromptFileError: its file is of a version of the format that is not known here.
        """
        from softprompt.prompts.soft_prompt import SoftPrompt

        return SoftPrompt.from_bytes(self._objects.read(self.resolve(reference)), reference)

    def resolve(self, reference: str) -> str:
        """Return the digest, 64 hex digits, that `reference` means now.

        Raises:
            ConfigError: it cannot be a reference.
            UnknownNameError: no such name, version, tag or digest; the nearest are offered.
            StorageError: the file of that version is damaged.
        """
        if reference.startswith("sha256:"):
            return self._objects.find(reference.removeprefix("sha256:"))
        return self.version(reference).digest

    def version(self, reference: str) -> Version:
        """Return the version that `name`, `name@v3` or `name@tag` means now.

        Raises:
            ConfigError: it cannot be a reference.
            UnknownNameError: no such name, version or tag; the nearest are offered.
            StorageError: the file of that version is damaged.
        """
        name, version = _split(reference)
        return self._names.find(name, version or "latest")

    def list(self, search: str = "") -> tuple[Listing, ...]:
        """Return one line a name, in order.

        Args:
            search: only names where this stands in the name, a tag, the task, the backbone or a label.
        """
        return self._index.search(search)

    def log(self, name: str) -> tuple[Version, ...]:
        """Return every version of `name`, newest first.

        Raises:
            UnknownNameError: no such name; the nearest are offered.
        """
        return self._names.versions(_bare(name))[::-1]

    def tag(self, reference: str, tag: str) -> Version:
        """Let `tag` stand on the version that `reference` means, and return that version.

        Raises:
            ConfigError: `tag` cannot be one.
            UnknownNameError: no such version; the nearest are offered.
            StorageError: the folder may not be written.
        """
        check_tag(tag)
        self.version(reference)
        with holding(self._layout.lock):
            version = self.version(reference)
            self._names.set_tag(version.name, tag, version.number)
            return self.version(f"{version.name}@{tag}")

    def untag(self, name: str, tag: str) -> None:
        """Take `tag` away from `name`; its version stays.

        Raises:
            UnknownNameError: no such name or tag; the nearest are offered.
            StorageError: the folder may not be written.
        """
        self._names.find(_bare(name))
        with holding(self._layout.lock):
            self._names.drop_tag(name, tag)

    def remove(self, target: str) -> tuple[Version, ...]:
        """Remove a version (`name@v3`), or a name with all of its versions and tags, and return what went.

        The files themselves go with the next garbage collection; a version's number is not used again.

        Raises:
            ConfigError: `target` is a tag, or a version that a tag stands on.
            UnknownNameError: no such name or version; the nearest are offered.
            StorageError: the folder may not be written.
        """
        name, version = _split(target)
        self._names.find(name, version or "latest")
        with holding(self._layout.lock, alone=True):
            doomed = (self._removable(name, version),) if version else self._names.versions(name)
            for each in doomed:
                self._names.drop(each)
        return doomed

    def diff(self, a: str, b: str) -> Difference:
        """Return what differs between the prompts that two references mean.

        Raises:
            UnknownNameError: no such name, version, tag or digest; the nearest are offered.
        """
        from softprompt.store.diff import compare

        return compare(self.get(a), self.get(b), a, b)

    def verify(self) -> upkeep.Health:
        """Read everything in the store and return what is wrong with it."""
        return upkeep.examine(self._layout, self._names, self._objects)

    def gc(self, grace: float = GRACE, *, dry_run: bool = False) -> upkeep.Collected:
        """Take away files that no version refers to, and what killed writers left behind.

        Args:
            grace: seconds for which such a file is left alone, from 0 up.
            dry_run: only say what would go.

        Raises:
            ConfigError: `grace` is negative.
            StorageError: a version's file is damaged, so that nobody knows what it needs; or a file cannot be removed.
        """
        if grace < 0:
            raise ConfigError(f"grace is {grace}; give seconds, from 0 up")
        if not self.root.is_dir():
            return upkeep.Collected((), 0, 0)
        with holding(self._layout.lock, alone=True):
            return upkeep.collect(self._layout, self._names, self._objects, grace, dry_run=dry_run)

    def rebuild_index(self) -> int:
        """Make the index again from the files, and return how many names it holds; nothing but time is at stake."""
        return self._index.rebuild()

    def add_evaluation(self, digest: str, name: str, data: Mapping[str, JSON]) -> None:
        """Keep an evaluation beside the prompt of that digest; an earlier one called `name` is replaced.

        Raises:
            ConfigError: `data` is not plain JSON, or `name` or `digest` cannot be one.
            UnknownNameError: the store has no prompt of that digest.
            StorageError: the disk is full, or the folder may not be written.
        """
        digest = check_digest(digest)
        with holding(self._layout.lock):
            if not self._objects.path(digest).is_file():
                raise UnknownNameError(f"the store has no prompt sha256:{digest}; put it first, then its evaluation")
            evaluations.write_evaluation(self._layout, digest, name, data)

    def evaluations(self, digest: str) -> dict[str, JSON]:
        """Return the evaluations kept beside the prompt of that digest, by name.

        Raises:
            ConfigError: that is no digest.
            StorageError: one of them is damaged.
        """
        return evaluations.read_evaluations(self._layout, check_digest(digest))

    def _removable(self, name: str, version: str) -> Version:
        found = self._names.find(name, version)
        if version != f"v{found.number}":
            raise ConfigError(f"`{name}@{version}` is a tag; remove `{found}` or untag `{version}`")
        if found.tags:
            raise ConfigError(f"`{found}` carries the tag `{found.tags[0]}`; move it or take it away first")
        return found


def _split(reference: str) -> tuple[str, str]:
    """Split `name@version` into its halves; without one the version is empty.

    >>> _split("sentiment@v3")
    ('sentiment', 'v3')
    """
    name, at, version = reference.partition("@")
    if at and not version:
        raise ConfigError(f"`{reference}` ends in `@`; write a version or a tag behind it, or leave it out")
    return check_name("prompt", name), version


def _bare(name: str) -> str:
    if "@" in name:
        raise ConfigError(f"`{name}` names a version; give the name alone, `{name.partition('@')[0]}`")
    return check_name("prompt", name)

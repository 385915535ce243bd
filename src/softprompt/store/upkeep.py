"""Looking after a store: is everything there and whole, and what may go."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from softprompt.errors import SoftPromptError, StorageError
from softprompt.store.evaluations import read_evaluations
from softprompt.store.layout import Layout, check_name, files, reading
from softprompt.store.names import Names
from softprompt.store.objects import Objects

_PART = re.compile(r"\..*\.part")


@dataclass(frozen=True)
class Health:
    """What a look at every file of a store found.

    Args:
        prompts: how many files were read.
        versions: how many versions of names point to one.
        problems: one sentence each; none is good.
    """

    prompts: int
    versions: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Collected:
    """What garbage collection took away, or would.

    Args:
        objects: digests that no version referred to.
        parts: how many files of writers that were killed.
        size: bytes of all that.
    """

    objects: tuple[str, ...]
    parts: int
    size: int


def examine(layout: Layout, names: Names, objects: Objects) -> Health:
    """Read every object, version, tag and evaluation of a store."""
    digests = list(objects.all())
    problems = [problem for digest in digests for problem in _object_problems(objects, digest)]
    problems += _stray_problems(layout)
    problems += [problem for stray in names.strays() for problem in _said(check_name, "prompt", stray)]
    versions = 0
    for name in names.folders():
        found, wrong = _name_problems(names, objects, name)
        versions += found
        problems += wrong
    for path in files(layout.root / "evaluations"):
        problems += _said(read_evaluations, layout, path.name)
    return Health(len(digests), versions, tuple(problems))


def collect(layout: Layout, names: Names, objects: Objects, grace: float, *, dry_run: bool) -> Collected:
    """Take away what no version refers to and what killed writers left, if older than `grace` seconds.

    The caller holds the store's lock alone.

    Raises:
        StorageError: a version cannot be read, so that nobody knows what it needs; or a file cannot be removed.
    """
    needed = {v.digest for name in names.folders() if names.alive(name) for v in names.versions(name)}
    before = time.time() - grace
    dropped = [d for d in objects.all() if d not in needed and _older(objects.path(d), before)]
    parts = [path for path in _parts(layout.root) if _older(path, before)]
    doomed = [objects.path(digest) for digest in dropped] + parts
    size = sum(_size(path) for path in doomed)
    if not dry_run:
        for path in doomed:
            _remove(path)
        for digest in dropped:
            shutil.rmtree(layout.evaluations(digest), ignore_errors=True)
    return Collected(tuple(dropped), len(parts), size)


def _object_problems(objects: Objects, digest: str) -> list[str]:
    from softprompt.prompts.soft_prompt import SoftPrompt

    return _said(lambda: SoftPrompt.from_bytes(objects.read(digest), f"sha256:{digest}"))


def _name_problems(names: Names, objects: Objects, name: str) -> tuple[int, list[str]]:
    """How many versions a name has, and what is wrong with them and with its tags."""
    try:
        versions = names.versions(name) if names.alive(name) else ()
        tags = names.tags(name)
    except SoftPromptError as error:
        return 0, [str(error)]
    lost = [version for version in versions if not objects.path(version.digest).is_file()]
    problems = [f"`{version}` points to the object sha256:{version.digest}, which is gone" for version in lost]
    numbers = {version.number for version in versions}
    problems += [f"the tag `{name}@{tag}` stands on v{n}, which is gone" for tag, n in tags.items() if n not in numbers]
    return len(versions), problems


def _stray_problems(layout: Layout) -> list[str]:
    """Files among the objects that are none."""
    found = []
    for folder in files(layout.objects):
        inside = files(folder) if folder.is_dir() and re.fullmatch(r"[0-9a-f]{2}", folder.name) else [folder]
        strange = [path for path in inside if not re.fullmatch(r"[0-9a-f]{62}", path.name) or not path.is_file()]
        found += [f"`{path}` is no object of a store; move it away" for path in strange]
    return found


def _said(check: object, *args: object) -> list[str]:
    """What a check complains of, if it does."""
    assert callable(check)
    try:
        check(*args)
    except SoftPromptError as error:
        return [str(error)]
    return []


def _parts(root: Path) -> Iterator[Path]:
    """The unfinished files that killed writers left behind."""
    for name in ("objects", "names", "evaluations"):
        for folder, _, inside in os.walk(root / name):
            yield from (Path(folder) / file for file in inside if _PART.fullmatch(file))


def _older(path: Path, moment: float) -> bool:
    with reading(path):
        return path.lstat().st_mtime <= moment


def _size(path: Path) -> int:
    with reading(path):
        return path.lstat().st_size


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot remove `{path}`: {error.strerror or error}") from error

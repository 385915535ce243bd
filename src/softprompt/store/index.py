"""A table of what the store holds, for listing and searching; made from the files, and good for nothing else.

Writers never touch it. A reader brings it up to date first: a name whose folders have not changed since it
was last read is not read again. Lost, damaged or not writable, it is made again, in memory if need be.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from softprompt.errors import SoftPromptError
from softprompt.prompts.canonical import JSON
from softprompt.prompts.header import read_head, read_header
from softprompt.prompts.manifest import name_of, read_manifest
from softprompt.prompts.sites import length
from softprompt.store.layout import Layout
from softprompt.store.names import Names
from softprompt.store.objects import Objects

_SCHEMA = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS names (name TEXT PRIMARY KEY, stamp TEXT NOT NULL, listing TEXT, words TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS prompts (digest TEXT PRIMARY KEY, summary TEXT NOT NULL);
"""
_SETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class Listing:
    """One line of a list of prompts: a name and its latest version.

    Args:
        name: the prompt's name.
        version: number of the latest version.
        versions: how many versions there are.
        digest: sha256 of the latest, in hex.
        tags: tags and the version numbers they stand on.
        saved: when the latest was put, in seconds since 1970.
        summary: of the latest: `virtual_tokens`, `bytes`, `labels`, `task`, `backbone`, `metrics`.
        problem: why the latest cannot be used, if it cannot.
    """

    name: str
    version: int
    versions: int
    digest: str
    tags: dict[str, int] = field(default_factory=dict)
    saved: float = 0.0
    summary: dict[str, JSON] = field(default_factory=dict)
    problem: str | None = None


class Index:
    """The table of one store.

    Args:
        layout: where the store lies.
        names: its names.
        objects: its files.
    """

    def __init__(self, layout: Layout, names: Names, objects: Objects) -> None:
        self._path, self._names, self._objects = layout.index, names, objects

    def search(self, text: str = "") -> tuple[Listing, ...]:
        """Return one line a name, in order; only names whose own, tags', task's or labels' words hold `text`."""
        with self._open() as table:
            found = table.execute(
                "SELECT listing FROM names WHERE listing IS NOT NULL AND instr(words, ?) ORDER BY name", (text.lower(),)
            )
            return tuple(Listing(**json.loads(row[0])) for row in found)

    def rebuild(self) -> int:
        """Forget everything, read the store again and return how many names it has."""
        with self._open(anew=True) as table:
            found: int = table.execute("SELECT count(*) FROM names WHERE listing IS NOT NULL").fetchone()[0]
            return found

    @contextmanager
    def _open(self, *, anew: bool = False) -> Iterator[sqlite3.Connection]:
        """Give a table that is up to date: the one on disk, if it can be had, else one in memory."""
        with closing(self._on_disk(anew) or self._filled(":memory:", anew=False)) as table:
            yield table

    def _on_disk(self, anew: bool) -> sqlite3.Connection | None:
        if not self._path.parent.is_dir():
            return None  # a store that is not there yet is not made by asking what it holds
        for _ in range(2):
            try:
                return self._filled(str(self._path), anew)
            except sqlite3.OperationalError:
                return None  # busy, read-only or full: the store can be listed all the same
            except sqlite3.DatabaseError:
                _delete(self._path)
        return None

    def _filled(self, path: str, anew: bool) -> sqlite3.Connection:
        table = sqlite3.connect(path, timeout=10, isolation_level=None)
        try:
            table.execute("PRAGMA journal_mode=WAL")
            table.execute("BEGIN IMMEDIATE")
            self._prepare(table, anew)
            self._refresh(table)
            table.execute("COMMIT")
        except BaseException:
            table.close()
            raise
        return table

    def _prepare(self, table: sqlite3.Connection, anew: bool) -> None:
        if anew or table.execute("PRAGMA user_version").fetchone()[0] != _SCHEMA:
            table.execute("DROP TABLE IF EXISTS names")
            table.execute("DROP TABLE IF EXISTS prompts")
        for statement in _TABLES.split(";"):
            table.execute(statement)
        table.execute(f"PRAGMA user_version={_SCHEMA}")

    def _refresh(self, table: sqlite3.Connection) -> None:
        """Read again the names that changed, or that changed so lately that a clock tick may hide another change."""
        known = dict(table.execute("SELECT name, stamp FROM names"))
        there = self._names.folders()
        table.executemany("DELETE FROM names WHERE name = ?", [(name,) for name in known.keys() - set(there)])
        for name in there:
            now = time.time_ns()
            try:
                stamp = self._names.stamp(name)
            except SoftPromptError:
                continue  # a link out of the store: `verify` says so
            text = f"{stamp[0]} {stamp[1]}"
            if known.get(name) != text:
                listing = self._read(table, name)
                trusted = text if now - max(stamp) > _SETTLED_NS else ""
                row = (name, trusted, json.dumps(asdict(listing)) if listing else None, _words(listing))
                table.execute("INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?)", row)

    def _read(self, table: sqlite3.Connection, name: str) -> Listing | None:
        """One name's line from the files; None if all of its versions were removed."""
        if not self._names.alive(name):
            return None
        try:
            versions, tags = self._names.versions(name), self._names.tags(name)
        except SoftPromptError as error:
            return Listing(name, 0, 0, "", problem=str(error))
        latest = versions[-1]
        row = table.execute("SELECT summary FROM prompts WHERE digest = ?", (latest.digest,)).fetchone()
        try:
            summary = json.loads(row[0]) if row else summarize(self._objects.path(latest.digest))
        except SoftPromptError as error:
            return Listing(name, latest.number, len(versions), latest.digest, tags, latest.saved, problem=str(error))
        table.execute("INSERT OR REPLACE INTO prompts VALUES (?, ?)", (latest.digest, json.dumps(summary)))
        return Listing(name, latest.number, len(versions), latest.digest, tags, latest.saved, summary)


def summarize(path: Path) -> dict[str, JSON]:
    """Return what a list says of the prompt at `path`, from its header alone.

    Raises:
        PromptFileError: the header breaks a rule of the format.
        StorageError: it may not be read.
    """
    head, size = read_head(path)
    header = read_header(head, size, path.name)
    manifest = read_manifest(header, path.name)
    provenance = manifest.provenance
    return {
        "virtual_tokens": length({site: entry.shape for site, entry in header.entries.items()}),
        "bytes": size,
        "labels": manifest.readout.labels,
        "task": name_of(provenance.get("task")),
        "backbone": name_of(provenance.get("backbone")),
        "metrics": provenance.get("metrics", {}),
    }


def _words(listing: Listing | None) -> str:
    if not listing:
        return ""
    summary = listing.summary
    found = [listing.name, *listing.tags, summary.get("task"), summary.get("backbone"), *summary.get("labels", [])]
    return "\n".join(str(word).lower() for word in found if word)


def _delete(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        try:
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        except OSError:
            return

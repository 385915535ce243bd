"""The index: always true, and never needed."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from softprompt.store import index


def names(store) -> list[str]:
    return [f"{each.name}@v{each.version}" for each in store.list()]


def test_a_line_says_what_the_latest_is(store, make) -> None:
    store.put(make(1), "mail", tags=["prod"])
    version = store.put(make(2, tokens=5), "mail")
    (line,) = store.list()
    assert (line.name, line.version, line.versions, line.digest) == ("mail", 2, 2, version.digest)
    assert line.tags == {"prod": 1}
    assert line.saved == version.saved
    assert line.summary == {
        "virtual_tokens": 5,
        "bytes": len(make(2, tokens=5).to_bytes()),
        "labels": ["ham", "spam"],
        "task": "mail",
        "backbone": "tiny",
        "metrics": {"accuracy": 0.9},
    }


def test_every_change_shows_at_once(store, make) -> None:
    for value in range(20):
        store.put(make(value), "mail")
        assert names(store) == [f"mail@v{value + 1}"]
    store.tag("mail@v3", "prod")
    assert store.list()[0].tags == {"prod": 3}
    store.untag("mail", "prod")
    assert store.list()[0].tags == {}
    store.remove("mail")
    assert store.list() == ()


def test_names_that_did_not_change_are_not_read_again(store, make, monkeypatch) -> None:
    store.put(make(1), "old")
    store.put(make(2), "new")
    past = time.time() - 100
    for folder in (store.root / "names/old").iterdir():
        os.utime(folder, (past, past))
    store.list()
    read: list[str] = []
    true = index.Index._read
    monkeypatch.setattr(index.Index, "_read", lambda self, table, name: read.append(name) or true(self, table, name))
    assert names(store) == ["new@v1", "old@v1"]
    assert read == ["new"]


def test_search_finds_names_tags_tasks_and_labels(store, make) -> None:
    store.put(make(1), "first", tags=["prod"])
    store.put(make(2, provenance={"task": {"name": "Reviews"}}), "second")
    for text, found in {"fir": ["first"], "PROD": ["first"], "reviews": ["second"], "ham": ["first", "second"]}.items():
        assert [each.name for each in store.list(text)] == found
    assert store.list("nothing like it") == ()
    assert store.list("100%_") == ()


@pytest.mark.parametrize("damage", ["delete", "garbage", "truncate", "other-schema", "flip"])
def test_a_lost_or_damaged_index_loses_nothing(store, make, damage: str) -> None:
    for value, name in enumerate(("a", "b", "c")):
        store.put(make(value), name)
    before, path = store.list(), store.root / "index.sqlite"
    data = path.read_bytes()
    if damage == "delete":
        path.unlink()
    elif damage == "garbage":
        path.write_bytes(b"not a database, " * 1000)
    elif damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        path.write_bytes(data[:100] + bytes(byte ^ 0x55 for byte in data[100:4096]) + data[4096:])
    else:
        with sqlite3.connect(path) as table:
            table.execute("PRAGMA user_version=99")
        table.close()
    assert store.list() == before
    assert store.rebuild_index() == 3
    assert store.list() == before


def test_an_index_that_cannot_be_written_is_made_in_memory(store, make) -> None:
    store.put(make(), "mail")
    store.list()
    held = sqlite3.connect(store.root / "index.sqlite", isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    connect = sqlite3.connect
    sqlite3.connect = lambda path, **options: connect(path, **{**options, "timeout": 0})  # the busy wait, cut short
    try:
        assert names(store) == ["mail@v1"]
        assert store.rebuild_index() == 1
    finally:
        sqlite3.connect = connect
        held.close()


def test_an_index_that_is_a_folder_does_not_matter(store, make) -> None:
    store.put(make(), "mail")
    (store.root / "index.sqlite").mkdir()
    assert names(store) == ["mail@v1"]


def test_a_broken_object_is_a_line_with_a_problem(store, make) -> None:
    digest = store.put(make(), "mail").digest
    (store.root / "objects" / digest[:2] / digest[2:]).write_bytes(b"")
    (line,) = store.list()
    assert "it has only 0 bytes" in line.problem
    (store.root / "names/Not A Name").mkdir()
    assert names(store) == ["mail@v1"]


def test_a_list_needs_no_torch(store, make, tmp_path: Path) -> None:
    store.put(make(), "mail")
    code = (
        "import sys; from softprompt.store.store import PromptStore\n"
        f"print([e.name for e in PromptStore({str(store.root)!r}).list()], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['mail'] False\n"

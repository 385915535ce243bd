"""Eight processes write one store and are killed at random: nothing is lost, nothing is half-written."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.store.store import PromptStore

WRITERS, SECONDS, NAMES = 8, 5.0, ("mail", "web", "news")
KILLED, NOTES = 20, 50  # at least, however slow the machine is


def write_for_ever(make: Callable[..., SoftPrompt], root: Path, log: Path, seed: int) -> None:
    """Put prompt after prompt, and note each put only when it has returned."""
    store, draw = PromptStore(root), random.Random(seed)
    with log.open("ab", buffering=0) as notes:
        while True:
            prompt, name = make(draw.random()), draw.choice(NAMES)
            version = store.put(prompt, name, tags=["newest"] if draw.random() < 0.3 else [])
            notes.write(f"{version.name} {version.number} {prompt.digest}\n".encode())
            if draw.random() < 0.05:
                store.gc(grace=0)


def start(make: Callable[..., SoftPrompt], root: Path, folder: Path, seed: int) -> multiprocessing.Process:
    arguments = (make, root, folder / f"{seed}.log", seed)
    writer = multiprocessing.get_context("fork").Process(target=write_for_ever, args=arguments, daemon=True)
    writer.start()
    return writer


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts its writers by fork")
def test_eight_writers_killed_at_random_lose_nothing(tmp_path: Path, make) -> None:
    root, logs = tmp_path / "store", tmp_path / "logs"
    logs.mkdir()
    draw, seeds = random.Random(0), iter(range(10_000))
    writers = [start(make, root, logs, next(seeds)) for _ in range(WRITERS)]
    end, killed = time.monotonic() + SECONDS, 0
    while time.monotonic() < end or killed < KILLED or len(written(logs)) < NOTES:
        time.sleep(draw.uniform(0.01, 0.1))
        place = draw.randrange(WRITERS)
        assert writers[place].is_alive(), "a writer ended by itself"
        writers[place].kill()
        writers[place].join()
        writers[place], killed = start(make, root, logs, next(seeds)), killed + 1
    for writer in writers:
        writer.kill()
        writer.join()
    check(PromptStore(root), written(logs))


def written(logs: Path) -> list[str]:
    """What the writers noted once it was in the store; a line that a kill cut short is none."""
    return [line for log in logs.iterdir() for line in log.read_text().rpartition("\n")[0].splitlines()]


def check(store: PromptStore, notes: list[str]) -> None:
    for note in notes:
        name, number, digest = note.split()
        assert store.version(f"{name}@v{number}").digest == digest
    for name in NAMES:
        numbers = [version.number for version in store.log(name)]
        assert numbers == list(range(len(numbers), 0, -1))
    for version in (store.root / "names").glob("*/versions/0*"):
        digest = version.read_text().removeprefix("sha256:").strip()
        data = (store.root / "objects" / digest[:2] / digest[2:]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == digest
    assert store.verify().problems == ()
    (store.root / "index.sqlite").unlink(missing_ok=True)
    assert store.rebuild_index() == len(NAMES)
    store.gc(grace=0)
    assert not list(store.root.rglob("*.part"))
    assert store.verify().problems == ()

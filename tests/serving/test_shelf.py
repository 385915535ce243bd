"""Prompts kept ready: loaded once, the least used given away first."""

from __future__ import annotations

import threading

import pytest

from softprompt.errors import StorageError
from softprompt.serving.shelf import Shelf, size_of
from softprompt.testing.conformance import prompt


def test_a_prompt_is_loaded_once_however_many_ask(backbone):
    loads, gate = [], threading.Event()
    some = prompt(backbone, 3)

    def load(digest):
        loads.append(digest)
        gate.wait(10)
        return some

    shelf = Shelf(load, 1_000_000)
    found = []
    threads = [threading.Thread(target=lambda: found.append(shelf.get("a"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert loads == ["a"]
    assert found == [some] * 8
    assert (len(shelf), shelf.bytes) == (1, size_of(some))


def test_the_least_used_goes_first(backbone):
    some = prompt(backbone, 3)
    loads = []
    shelf = Shelf(lambda digest: loads.append(digest) or some, 2 * size_of(some))
    for digest in ("a", "b", "a", "c", "a", "b"):
        shelf.get(digest)
    assert loads == ["a", "b", "c", "b"]
    assert shelf.bytes == 2 * size_of(some)


def test_a_prompt_larger_than_the_shelf_leaves_the_others_there(backbone):
    small, large = prompt(backbone, 3), prompt(backbone, 60)
    loads = []
    shelf = Shelf(lambda digest: loads.append(digest) or (large if digest == "large" else small), size_of(large) - 1)
    for digest in ("small", "large", "large", "small"):
        shelf.get(digest)
    assert loads == ["small", "large", "large"]
    assert (len(shelf), shelf.bytes) == (1, size_of(small))


def test_what_cannot_be_loaded_is_raised_and_tried_again(backbone):
    some = prompt(backbone, 3)
    answers = [StorageError("the disk is away"), some]

    def load(digest):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    shelf = Shelf(load, 1_000_000)
    with pytest.raises(StorageError, match="the disk is away"):
        shelf.get("a")
    assert shelf.get("a") is some

"""Verification, garbage collection and comparison."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path

import pytest
import torch

from softprompt.errors import ConfigError, StorageError, UnknownNameError


def object_path(store, digest: str) -> Path:
    return store.root / "objects" / digest[:2] / digest[2:]


def age(path: Path, seconds: float) -> None:
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


def test_a_good_store_has_no_problems(store, make) -> None:
    store.put(make(1), "mail", tags=["prod"])
    store.add_evaluation(store.put(make(2), "mail").digest, "x", {})
    health = store.verify()
    assert (health.prompts, health.versions, health.problems) == (2, 2, ())


def test_every_kind_of_damage_is_found(store, make) -> None:
    digests = [store.put(make(value), f"p{value}", tags=["prod"]).digest for value in range(6)]
    object_path(store, digests[0]).write_bytes(b"x")
    object_path(store, digests[1]).unlink()
    (store.root / "names/p2/versions/000001").write_text("nonsense")
    (store.root / "names/p3/tags/prod").write_text("v9")
    (store.root / "names/Not A Name").mkdir()
    (store.root / "objects/stray").write_text("")
    (store.root / "evaluations" / digests[4]).mkdir(parents=True)
    (store.root / "evaluations" / digests[4] / "x.json").write_text("{")
    problems = "\n".join(store.verify().problems)
    for part in (
        f"the object sha256:{digests[0]} is damaged",
        f"`p1@v1` points to the object sha256:{digests[1]}, which is gone",
        "the version `p2@v1` is damaged",
        "the tag `p3@prod` stands on v9, which is gone",
        "no prompt can be called `Not A Name`",
        "stray` is no object of a store; move it away",
        "x.json` is damaged",
    ):
        assert part in problems
    assert len(store.verify().problems) == 7


def test_a_folder_that_cannot_be_a_name_hurts_nobody_and_verify_tells_of_it(store, make) -> None:
    kept = store.put(make(1), "mail").digest
    shutil.copytree(store.root / "names/mail", store.root / "names/Old copies")
    assert store.put(make(2), "web").number == 1
    assert [line.name for line in store.list()] == ["mail", "web"]
    with pytest.raises(UnknownNameError, match="unknown prompt `mial`; did you mean `mail`"):
        store.get("mial")
    assert store.gc(0).objects == ()
    assert store.get("mail").digest == kept
    (problem,) = store.verify().problems
    assert problem.startswith("no prompt can be called `Old copies`; use 1 to 64 of a-z")


def test_an_object_that_is_no_prompt_is_found(store, make) -> None:
    store.put(make(), "mail")
    digest = store._objects.put(b"not a prompt")
    assert any(f"`sha256:{digest}` cannot be used as a prompt" in problem for problem in store.verify().problems)


def test_gc_takes_what_nothing_refers_to_and_leaves_the_rest(store, make) -> None:
    kept, gone = store.put(make(1), "mail").digest, store.put(make(2), "mail").digest
    store.add_evaluation(gone, "x", {})
    store.remove("mail@v2")
    age(object_path(store, gone), 7200)
    assert store.gc(dry_run=True).objects == (gone,)
    assert object_path(store, gone).exists()
    found = store.gc()
    assert (found.objects, found.parts, found.size) == ((gone,), 0, len(make(2).to_bytes()))
    assert not object_path(store, gone).exists()
    assert not (store.root / "evaluations" / gone).exists()
    assert store.get("mail").digest == kept


def test_gc_leaves_young_files_alone(store, make) -> None:
    digest = store._objects.put(make().to_bytes())
    part = object_path(store, digest).with_name(".x.abc.part")
    part.write_bytes(b"half")
    assert (store.gc().objects, store.gc().parts) == ((), 0)
    age(part, 7200)
    assert store.gc().parts == 1
    assert not part.exists()
    assert store.gc(0).objects == (digest,)


def test_putting_an_old_object_again_makes_it_young(store, make) -> None:
    digest = store._objects.put(make().to_bytes())
    age(object_path(store, digest), 7200)
    store._objects.put(make().to_bytes())
    assert store.gc().objects == ()


def test_gc_refuses_a_negative_age_and_says_what_it_cannot_remove(store, make, monkeypatch) -> None:
    with pytest.raises(ConfigError, match="grace is -1; give seconds, from 0 up"):
        store.gc(-1)
    store._objects.put(make().to_bytes())

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StorageError, match=r"cannot remove `.*`: Permission denied"):
        store.gc(0)


def test_diff_says_what_is_said_differently_and_how_far_tokens_are(store, make) -> None:
    store.put(make(1.0), "a")
    other = make(tensors={"input": torch.tensor([[1.0, 1, 1, 1], [-1, -1, -1, -1]])}, provenance={"task": "web"})
    store.put(other, "b")
    found = store.diff("a", "b@v1")
    assert (found.a, found.b, found.same) == ("a", "b@v1", False)
    assert found.fields["provenance.task"] == ("mail", "web")
    assert found.fields["provenance.metrics.accuracy"] == (0.9, None)
    assert not any(path.startswith("template") for path in found.fields)
    assert found.shapes == {"input": ([3, 4], [2, 4])}
    assert [(t.token, t.distance, t.cosine) for t in found.tokens] == [(0, 0.0, 1.0), (1, 4.0, -1.0)]
    assert found.to_json()["tokens"][1] == {"site": "input", "token": 1, "distance": 4.0, "cosine": -1.0}


def test_diff_of_the_same_file(store, make) -> None:
    store.put(make(), "a")
    store.put(make(), "b")
    found = store.diff("a", "b")
    assert (found.same, found.fields, found.shapes) == (True, {}, {})


def test_diff_leaves_out_what_cannot_be_compared(store, make) -> None:
    keys = {"layers.0.key": torch.ones(2, 3, 4), "layers.0.value": torch.zeros(2, 3, 4)}
    head = {"readout.weight": torch.ones(2, 8)}
    store.put(make(tensors={"input": torch.ones(3, 8), **keys, **head}), "a")
    store.put(make(tensors={"input": torch.ones(3, 4), **keys, **head}), "b")
    tokens = store.diff("a", "b").tokens
    assert [t.site for t in tokens] == ["layers.0.key"] * 3 + ["layers.0.value"] * 3
    assert [t.cosine for t in tokens] == [pytest.approx(1.0)] * 3 + [None] * 3

"""Managing prompts over HTTP: every check of the file, no lost update, nothing left behind, nothing leaked."""

from __future__ import annotations

import logging

import pytest
import torch
from fastapi.testclient import TestClient

from softprompt.modeling.bound import Prefix
from softprompt.modeling.prefix_cache import PrefixCache
from softprompt.prompts.header import MAX_FILE
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.server.context import Context
from softprompt.server.keyring import Keyring, add_key
from softprompt.server.keys import Door
from softprompt.server.management import Management
from softprompt.server.operation import operate
from softprompt.server.settings import Settings
from softprompt.serving.catalog import Catalog
from softprompt.store.store import PromptStore
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_backbone


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone("llama")


@pytest.fixture
def make(backbone):
    """A prompt of three rows; others by another seed, or for another backbone."""

    def prompt(seed: int = 0, fits=backbone, **changes) -> SoftPrompt:
        rows = torch.randn(3, fits.embedding_size, generator=torch.Generator().manual_seed(seed))
        template, words = Template("{bos}{soft}Text: {text}\nLabel:"), LabelWords.from_labels(["ham", "spam"])
        return SoftPrompt(**{"tensors": {"input": rows}, "template": template, "readout": words,
                             "fingerprint": fits.fingerprint, "provenance": {"task": "sms"}, **changes})  # fmt: skip

    return prompt


@pytest.fixture
def store(tmp_path):
    return PromptStore(tmp_path / "store")


@pytest.fixture
def door(tmp_path):
    """Whoever runs the server, somebody who manages `support-…` alone, and somebody who may only ask."""
    path = tmp_path / "keys.json"
    keys = {
        "admin": add_key(path, "admin", manage=True),
        "support": add_key(path, "support", prompts=("support-*",), manage=True),
        "asker": add_key(path, "asker"),
    }
    door = Door(Keyring(path))
    door.keys = keys
    return door


@pytest.fixture
def forgotten():
    return []


@pytest.fixture
def client(backbone, store, door, forgotten):
    catalog, settings = Catalog(store, backbone), Settings(request_log=False)
    management = Management(store, catalog, backbone, forget=forgotten.append)
    app = operate(Context(None, catalog, backbone, settings), management, door=door)
    client = TestClient(app, base_url="http://127.0.0.1")
    client.headers["authorization"] = f"Bearer {door.keys['admin']}"
    return client


@pytest.fixture
def as_support(door):
    return {"authorization": f"Bearer {door.keys['support']}"}


def message(got) -> str:
    return got.json()["error"]["message"]


def test_uploaded_listed_inspected(client, make, store):
    prompt = make()
    got = client.put("/v1/prompts/spam?tag=prod", content=prompt.to_bytes())
    assert got.status_code == 201
    assert got.json().items() >= {"id": "spam@v1", "number": 1, "digest": prompt.digest, "tags": ["prod"]}.items()
    assert store.get("spam@prod").digest == prompt.digest
    (line,) = client.get("/v1/prompts").json()["data"]
    assert (line["id"], line["summary"]["labels"], line["tags"]) == ("spam", ["ham", "spam"], {"prod": 1})
    told = client.get("/v1/prompts/spam@prod").json()
    assert (told["id"], told["object"], told["name"], told["number"]) == ("spam@v1", "prompt", "spam", 1)
    assert told["virtual_tokens"] == 3
    assert told["template"]["pattern"] == "{bos}{soft}Text: {text}\nLabel:"
    assert told["readout"]["kind"] == "label-words"
    assert told["provenance"] == {"task": "sms"}
    rows = prompt.tensors["input"].norm(dim=-1)
    assert told["tensors"]["input"] == {
        "dtype": "float32",
        "shape": [3, prompt.tensors["input"].shape[1]],
        "norms": pytest.approx({"min": float(rows.min()), "mean": float(rows.mean()), "max": float(rows.max())}, 1e-5),
    }
    assert client.get(f"/v1/prompts/sha256:{prompt.digest}").json()["digest"] == prompt.digest


def test_a_list_comes_in_pages(client, make, store):
    for name in ("a", "b", "c", "mood"):
        store.put(make(), name)
    page = client.get("/v1/prompts?limit=2").json()
    assert ([each["id"] for each in page["data"]], page["has_more"]) == (["a", "b"], True)
    page = client.get("/v1/prompts?limit=2&after=b").json()
    assert ([each["id"] for each in page["data"]], page["has_more"]) == (["c", "mood"], False)
    assert [each["id"] for each in client.get("/v1/prompts?search=moo").json()["data"]] == ["mood"]
    assert client.get("/v1/prompts?limit=0").status_code == 400


def test_a_new_version_says_which_it_follows(client, make, store):
    assert client.put("/v1/prompts/spam", content=make(0).to_bytes()).status_code == 201
    got = client.put("/v1/prompts/spam", content=make(1).to_bytes())
    assert (got.status_code, got.json()["error"]["code"], got.json()["error"]["param"]) == (
        409, "version_conflict", "parent",
    )  # fmt: skip
    assert message(got) == "there is a `spam` already; say parent=v1 to put the next version of it"
    assert client.put("/v1/prompts/spam?parent=v1", content=make(1).to_bytes()).json()["id"] == "spam@v2"
    got = client.put("/v1/prompts/spam?parent=v1", content=make(2).to_bytes())
    assert (got.status_code, message(got)) == (
        409, "parent is `v1`, and the latest `spam` is v2; look at that one first",
    )  # fmt: skip
    digest = make(1).digest
    assert client.put(f"/v1/prompts/spam?parent=sha256:{digest}", content=make(2).to_bytes()).json()["number"] == 3
    got = client.put("/v1/prompts/new?parent=v1", content=make(0).to_bytes())
    assert (got.status_code, message(got)) == (409, "parent is `v1`, and there is no `new` yet; leave parent out")
    assert [version.number for version in store.log("spam")] == [3, 2, 1]
    assert [each["number"] for each in client.get("/v1/prompts/spam/versions").json()["data"]] == [3, 2, 1]


def test_of_two_servers_that_follow_the_same_version_one_is_told_that_it_was_late(client, make, store, monkeypatch):
    store.put(make(0), "spam")
    other, put = PromptStore(store.root), store.put

    def late(prompt, name, **how):
        other.put(make(1), name)  # another server's, once this one has looked what the latest is
        return put(prompt, name, **how)

    monkeypatch.setattr(store, "put", late)
    got = client.put("/v1/prompts/spam?parent=v1&tag=prod", content=make(2).to_bytes())
    assert (got.status_code, got.json()["error"]["code"], got.json()["error"]["param"]) == (
        409, "version_conflict", "parent",
    )  # fmt: skip
    assert message(got).startswith("the latest `spam` is v2, and v1 was to be followed: somebody was quicker")
    assert [(version.number, version.tags) for version in store.log("spam")] == [(2, ()), (1, ())]
    got = client.put("/v1/prompts/new", content=make(2).to_bytes())
    assert (got.status_code, len(store.log("new"))) == (409, 1)
    assert message(got).startswith("the latest `new` is v1, and this was to be the first")


def test_the_same_bytes_again_are_the_same_version(client, make, store):
    first = client.put("/v1/prompts/spam", content=make().to_bytes())
    again = client.put("/v1/prompts/spam", content=make().to_bytes())
    assert (first.status_code, again.status_code, again.json()["number"]) == (201, 200, 1)
    assert len(store.log("spam")) == 1


def everything(root):
    return sorted(str(path) for path in root.rglob("*") if path.is_file() and path.name != "lock")


def bad_files(make):
    good = make().to_bytes()
    nan = make().to_bytes()
    nan = nan[:-4] + b"\x00\x00\xc0\x7f"
    foreign = make(fits=tiny_backbone("gpt2"))
    room = make(template=Template("{bos}{soft}" + "word " * 300 + "{text}"))
    return [
        (b"", 400, "cannot be used as a prompt"),
        (b"not a prompt", 400, "cannot be used as a prompt"),
        (good[:-8], 400, "cannot be used as a prompt"),
        (nan, 400, "cannot be used as a prompt"),
        (good + b"more", 400, "cannot be used as a prompt"),
        (foreign.to_bytes(), 409, "another architecture"),
        (good.replace(b'\\"format\\":1', b'\\"format\\":9'), 400, "cannot be used as a prompt"),
        (room.to_bytes(), 400, "`spam` cannot be served here: "),
    ]


def test_a_bad_file_is_refused_with_the_reason_and_leaves_nothing(client, make, store):
    client.put("/v1/prompts/mood", content=make().to_bytes())
    before = everything(store.root)
    for data, status, reason in bad_files(make):
        got = client.put("/v1/prompts/spam", content=data)
        assert (got.status_code, reason in message(got)) == (status, True), got.text
        assert everything(store.root) == before
    assert client.put("/v1/prompts/Not a name", content=make().to_bytes()).status_code == 400
    assert client.put("/v1/prompts/spam?tag=v7", content=make().to_bytes()).status_code == 400
    assert everything(store.root) == before


def test_more_bytes_than_a_prompt_can_have_are_not_taken(client, store):
    got = client.put("/v1/prompts/spam", content=b"x" * (MAX_FILE + 1))
    assert (got.status_code, got.json()["error"]["code"]) == (413, "body_too_large")
    piece = b"x" * (1 << 20)
    got = client.put("/v1/prompts/spam", content=(piece for _ in range(MAX_FILE // len(piece) + 2)))
    assert got.status_code == 413
    assert not store.root.exists()


def test_loading_and_unloading(client, make, store, forgotten):
    version = store.put(make(), "spam")
    got = client.post("/v1/prompts/spam/load")
    assert got.json() == {"id": "spam", "object": "prompt", "digest": version.digest, "ready": True}
    got = client.post("/v1/prompts/spam@v1/unload")
    assert got.json() == {"id": "spam@v1", "object": "prompt", "digest": version.digest, "ready": False}
    assert forgotten == [version.digest]
    foreign = store.put(make(fits=tiny_backbone("gpt2")), "foreign")
    assert client.post(f"/v1/prompts/{foreign}/load").status_code == 409


def test_tags_move_and_go(client, make, store):
    store.put(make(0), "spam")
    store.put(make(1), "spam")
    assert client.put("/v1/prompts/spam@v1/tags/prod").json()["tags"] == ["prod"]
    assert client.put("/v1/prompts/spam/tags/prod").json()["number"] == 2
    assert store.version("spam@prod").number == 2
    assert client.put("/v1/prompts/spam/tags/latest").status_code == 400
    assert client.delete("/v1/prompts/spam/tags/prod").status_code == 204
    got = client.delete("/v1/prompts/spam/tags/prod")
    assert got.status_code == 404
    assert "unknown tag of `spam` `prod`" in message(got)


def test_a_version_goes_alone_and_a_name_only_if_it_is_said(client, make, store, forgotten):
    for seed in range(3):
        store.put(make(seed), "spam")
    got = client.delete("/v1/prompts/spam")
    assert (got.status_code, message(got)) == (
        400, "`spam` has all of its versions; name one, `spam@v1`, or say all=true",
    )  # fmt: skip
    assert [each["id"] for each in client.delete("/v1/prompts/spam@v2").json()["data"]] == ["spam@v2"]
    assert forgotten == [make(1).digest]
    assert "is one version; leave `all` out" in message(client.delete("/v1/prompts/spam@v1?all=true"))
    store.tag("spam@v1", "prod")
    assert "carries the tag `prod`" in message(client.delete("/v1/prompts/spam@v1"))
    assert len(client.delete("/v1/prompts/spam?all=true").json()["data"]) == 2
    assert store.list() == ()


def test_a_name_that_is_not_there_is_answered_with_the_nearest(client, make, store):
    store.put(make(), "sentiment")
    for method, path in (("GET", ""), ("GET", "/versions"), ("POST", "/load"), ("POST", "/unload"), ("PUT", "/tags/x")):
        got = client.request(method, f"/v1/prompts/sentimnet{path}")
        assert (got.status_code, message(got)) == (404, "unknown prompt `sentimnet`; did you mean `sentiment`?")
    assert "has no version `v9`" in message(client.get("/v1/prompts/sentiment@v9"))
    assert client.get("/v1/prompts/sha256:00000000").status_code == 404


def test_who_may_only_ask_manages_nothing(client, make, store, door):
    store.put(make(), "spam")
    asker = {"authorization": f"Bearer {door.keys['asker']}"}
    for method, path in (
        ("GET", ""), ("GET", "/spam"), ("GET", "/spam/versions"), ("PUT", "/spam"), ("POST", "/spam/load"),
        ("POST", "/spam/unload"), ("PUT", "/spam/tags/x"), ("DELETE", "/spam/tags/x"), ("DELETE", "/spam?all=true"),
    ):  # fmt: skip
        assert client.request(method, f"/v1/prompts{path}", headers=asker).status_code == 403
        assert client.request(method, f"/v1/prompts{path}", headers={"authorization": ""}).status_code == 401
    assert len(store.log("spam")) == 1


def test_who_manages_some_prompts_learns_of_no_others(client, make, store, as_support):
    store.put(make(), "support-a")
    store.put(make(), "secret")
    assert [each["id"] for each in client.get("/v1/prompts", headers=as_support).json()["data"]] == ["support-a"]
    there, not_there = (client.get(f"/v1/prompts/{name}", headers=as_support) for name in ("secret", "sacred"))
    assert there.status_code == not_there.status_code == 404
    assert message(there).replace("secret", "") == message(not_there).replace("sacred", "")
    near = client.get("/v1/prompts/support-b", headers=as_support)
    assert message(near) == "unknown prompt `support-b`; did you mean `support-a`?"
    assert "`secret`" not in message(client.get("/v1/prompts/support-secret", headers=as_support))
    put = client.put("/v1/prompts/secret?parent=v1", content=make(1).to_bytes(), headers=as_support)
    assert put.status_code == 404
    assert client.delete("/v1/prompts/secret@v1", headers=as_support).status_code == 404
    assert client.put("/v1/prompts/support-new", content=make(1).to_bytes(), headers=as_support).status_code == 201


def test_every_change_is_logged_with_who_made_it(client, make, caplog):
    caplog.set_level(logging.INFO, "softprompt.server.prompts")
    client.put("/v1/prompts/spam", content=make().to_bytes())
    client.put("/v1/prompts/spam/tags/prod")
    client.delete("/v1/prompts/spam/tags/prod")
    client.delete("/v1/prompts/spam@v1")
    told = [(record.getMessage(), record.key) for record in caplog.records]
    what = ["uploaded spam@v1", "tagged prod spam@v1", "untagged spam@prod", "removed spam@v1"]
    assert told == [(each, "admin") for each in what]


def test_an_uploaded_prompt_is_served_and_a_removed_one_is_not(client, make, store):
    client.put("/v1/prompts/spam", content=make().to_bytes())
    assert client.get("/v1/models/spam").json()["digest"] == f"sha256:{make().digest}"
    client.delete("/v1/prompts/spam?all=true")
    assert client.get("/v1/prompts/spam").status_code == 404


def test_an_unloaded_prompt_takes_no_room_and_is_read_again(make, backbone, store):
    version, catalog = store.put(make(), "spam"), Catalog(store, backbone)
    management = Management(store, catalog, backbone)
    assert management.load("spam") == version.digest
    assert catalog.bytes > 0
    management.unload("spam")
    management.unload("spam")
    assert catalog.bytes == 0
    assert management.load("spam") == version.digest


def test_what_is_kept_computed_is_dropped_by_digest(make, backbone, store):
    cache = PrefixCache()
    version = store.put(make(), "spam")
    made = []
    cache.find((version.digest, False), lambda: made.append(1) or Prefix(None, 0))
    Management(store, Catalog(store, backbone), backbone, forget=cache.forget).unload("spam")
    cache.find((version.digest, False), lambda: made.append(1) or Prefix(None, 0))
    assert len(made) == 2

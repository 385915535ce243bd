"""/v1/models, and what a name means to callers that may use some prompts only."""

import hashlib
import json

import pytest

from softprompt.errors import PromptFileError, StorageError
from softprompt.server.keyring import Keyring
from softprompt.server.keys import Door


def test_the_base_model_and_every_prompt_that_can_be_served_are_listed(rig, prompts):
    reply = rig.get("/v1/models")
    assert reply.json["object"] == "list"
    assert {each["id"] for each in reply.json["data"]} == {"tiny-llama", *prompts}  # and not `foreign`
    for each in reply.json["data"]:
        assert (each["object"], each["owned_by"]) == ("model", "softprompt")
        assert each["created"] > 1_700_000_000


def test_a_model_says_what_it_answers(rig, prompts):
    told = rig.get("/v1/models/judge").json
    assert told["kind"] == "label-words"
    assert told["labels"] == ["yes", "no"]
    assert told["fields"] == ["context", "question"]
    assert (told["root"], told["parent"], told["chat"]) == ("judge@v2", "tiny-llama", False)
    assert told["digest"] == f"sha256:{prompts['judge'].digest}"
    assert rig.get("/v1/models/reply").json["chat"]
    base = rig.get("/v1/models/tiny-llama").json
    assert (base["kind"], base["parent"], base["chat"]) == ("text", None, True)


@pytest.mark.parametrize("path", ["judge@v2", "judge%40prod"])
def test_versions_and_tags_are_found(rig, path):
    assert rig.get(f"/v1/models/{path}").json["root"] == "judge@v2"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sentimnet", "there is no model `sentimnet`; did you mean `sentiment`?"),
        ("tiny-lama", "did you mean `tiny-llama`?"),
        ("gpt-4o-mini-2024-07-18", "GET /v1/models lists them"),
        ("judge@v9", "`judge` has no version or tag `v9`"),
        ("Ünknown Näme/with?odd#signs", "there is no model"),
    ],
)
def test_unknown_names_are_404_with_near_ones(rig, name, words):
    for reply in (rig.chat(name, "a"), rig.complete(name, "a"), rig.classify(model=name, input="a")):
        assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")
        assert words in reply.error["message"]


def test_a_prompt_of_another_backbone_is_a_conflict(rig):
    reply = rig.complete("foreign", "a")
    assert (reply.status, reply.error["code"]) == (409, "incompatible_prompt")


@pytest.mark.parametrize("fault", [PromptFileError("/secret/place is bad"), StorageError("/secret/place is gone")])
def test_a_damaged_file_is_told_without_its_place(rig, fault, caplog):
    rig.catalog.faults["broken"] = fault
    reply = rig.complete("broken", "a")
    assert (reply.status, reply.error["code"]) == (503, "prompt_unusable")
    assert "/secret" not in reply.error["message"]
    assert "/secret/place" in caplog.text
    assert "broken" not in {each["id"] for each in rig.get("/v1/models").json["data"]}


def test_a_long_list_tells_names_only(rig, monkeypatch):
    monkeypatch.setattr("softprompt.server.models.DETAILED", 3)
    listed = rig.get("/v1/models").json["data"]
    assert {each["id"] for each in listed} == {"tiny-llama", *rig.catalog.names()}
    assert all(set(each) == {"id", "object", "created", "owned_by", "root", "parent"} for each in listed)


def test_callers_see_and_use_what_they_may(serving, chatty, prompts, rig, tmp_path):
    path = tmp_path / "keys.json"
    key = {"name": "ci", "sha256": hashlib.sha256(b"sp-x").hexdigest(), "prompts": ["sent*", "tiny-llama"]}
    path.write_text(json.dumps({"version": 1, "keys": [key]}))
    with serving(chatty, rig.engine, rig.catalog, door=Door(Keyring(path))) as locked:
        assert locked.get("/v1/models").status == 401
        by = {"Authorization": "Bearer sp-x"}
        assert [each["id"] for each in locked.get("/v1/models", **by).json["data"]] == ["tiny-llama", "sentiment"]
        asked = {"model": "sentiment", "input": "a"}
        assert locked.post("/v1/classify", asked, **by).status == 200
        for name in ("topics", "nothing-there"):
            reply = locked.post("/v1/classify", {**asked, "model": name}, **by)
            assert (reply.status, reply.error["code"]) == (404, "model_not_found")
            assert f"there is no model `{name}` for the key `ci`" in reply.error["message"]
        near = locked.post("/v1/classify", {**asked, "model": "sentimant"}, **by)
        assert "`sentiment`" in near.error["message"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("gemma-3-270m", "gemma-3-270m"),
        ("google/gemma-3", "google/gemma-3"),
        ("/models/tiny", "tiny"),
        ("a/b.gguf", "b"),
    ],
)
def test_the_base_model_is_called_by_its_name_and_not_by_its_place(name, shown):
    from types import SimpleNamespace

    from softprompt.server.bare import name_of

    assert name_of(SimpleNamespace(name=name)) == shown

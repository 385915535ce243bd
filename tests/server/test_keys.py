"""Who is let in: 401, 403, 404 and 429, in words that tell a stranger nothing."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from softprompt.errors import ConfigError
from softprompt.server.keyring import Keyring, add_key
from softprompt.server.keys import Caller, Door, caller
from softprompt.server.limits import Limiter
from softprompt.server.problems import Problem, install
from softprompt.server.settings import Settings

LOCAL = "http://127.0.0.1:8000"


@pytest.fixture(autouse=True)
def path(tmp_path, monkeypatch):
    """A home without keys, and the file that would hold them."""
    monkeypatch.setenv("SOFTPROMPT_HOME", str(tmp_path))
    return tmp_path / "keys.json"


def client_of(door: Door, base: str = LOCAL) -> TestClient:
    app = FastAPI()
    app.state.door = door
    install(app)

    @app.get("/use/{model}")
    async def use(model: str, by: Annotated[Caller, Depends(caller)]) -> dict[str, str]:
        by.may_use(model)
        return {"by": by.name}

    @app.post("/manage")
    async def manage(by: Annotated[Caller, Depends(caller)]) -> None:
        by.may_manage()

    @app.post("/v1/prompts/{model}/unload")
    async def unload(model: str, by: Annotated[Caller, Depends(caller)]) -> None:
        by.may_manage()

    @app.get("/watch")
    async def watch(by: Annotated[Caller, Depends(caller)]) -> None:
        by.may_watch()

    return TestClient(app, base_url=base)


def bearing(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def key(path):
    return add_key(path, "helpdesk", prompts=("support-*",))


@pytest.fixture
def client(path, key):
    return client_of(Door(Keyring(path)))


def test_a_key_opens_its_prompts(client, key):
    assert client.get("/use/support-reply@v2", headers=bearing(key)).json() == {"by": "helpdesk"}
    assert client.get("/use/support-x", headers={"Authorization": f"bearer   {key}"}).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"Authorization": ""}, {"Authorization": "Bearer "}])
def test_without_a_key_nobody_is_let_in(client, headers):
    got = client.get("/use/support-reply", headers=headers)
    assert (got.status_code, got.headers["www-authenticate"]) == (401, "Bearer")
    assert got.json()["error"] == {
        "message": "a key is needed; send it as `Authorization: Bearer sp-…`",
        "type": "authentication_error",
        "param": None,
        "code": "invalid_api_key",
    }


@pytest.mark.parametrize("scheme", ["Bearer", "Basic"])
def test_an_unknown_key_is_refused_and_logged_without_it(client, key, scheme, caplog):
    wrong = key[:-1] + "~"
    with caplog.at_level(logging.WARNING, "softprompt"):
        got = client.get("/use/support-reply", headers={"Authorization": f"{scheme} {wrong}"})
    assert got.status_code == 401
    assert "this key is not known here" in got.json()["error"]["message"]
    assert "refused a call with an unknown key" in caplog.text
    assert wrong not in caplog.text + got.text


def test_a_prompt_that_a_key_may_not_use_is_one_that_is_not_there(client, key):
    texts = {client.get(f"/use/{name}", headers=bearing(key)).text for name in ("sentiment", "sha256:00000000")}
    assert {text.replace("sentiment", "").replace("sha256:00000000", "") for text in texts} == {
        '{"error":{"message":"there is no model `` for the key `helpdesk`; GET /v1/models lists those there are",'
        '"type":"invalid_request_error","param":"model","code":"model_not_found"}}'
    }


def test_rights_are_given_one_by_one(path, client, key):
    manager, watcher = add_key(path, "manager", manage=True), add_key(path, "watcher", prompts=(), watch=True)
    calls = (("POST", "/manage"), ("GET", "/watch"))
    codes = {
        name: [client.request(*call, headers=bearing(has)).status_code for call in calls]
        for name, has in (("helpdesk", key), ("manager", manager), ("watcher", watcher))
    }
    assert codes == {"helpdesk": [403, 403], "manager": [200, 200], "watcher": [403, 200]}
    refused = client.post("/manage", headers=bearing(key)).json()["error"]
    assert refused["message"].startswith("the key `helpdesk` may not manage prompts; use one that was made with")
    assert refused["type"] == "permission_error"
    assert "the key `helpdesk` may not read metrics" in client.get("/watch", headers=bearing(key)).text


def test_a_key_that_is_taken_away_is_refused_at_once(path, client, key):
    from softprompt.server.keyring import remove_key

    assert client.get("/use/support-a", headers=bearing(key)).status_code == 200
    remove_key(path, "helpdesk")
    assert client.get("/use/support-a", headers=bearing(key)).status_code == 401


def test_more_than_a_minute_s_requests_wait(path):
    now = 100.0
    limiter = Limiter(lambda: now)
    key = add_key(path, "slow", requests_per_minute=2)
    client = client_of(Door(Keyring(path), limiter=limiter))
    assert [client.get("/use/a", headers=bearing(key)).status_code for _ in range(3)] == [200, 200, 429]
    got = client.get("/use/a", headers=bearing(key))
    assert got.headers["retry-after"] == "30"
    assert got.json()["error"]["message"] == (
        "the key `slow` may take 2 requests a minute and has taken them; try again in 30 s"
    )
    assert got.json()["error"]["type"] == "rate_limit_error"
    now += 30
    assert [client.get("/use/a", headers=bearing(key)).status_code for _ in range(2)] == [200, 429]


def test_tokens_are_counted_when_they_are_known(path):
    limiter = Limiter(lambda: 5.0)
    add_key(path, "reader", tokens_per_minute=600)
    by = Caller(Keyring(path)._keys[0], limiter)
    assert limiter.enter(by.key) is None
    by.spent("sentiment", 500, 220)
    assert limiter.enter(by.key) == ("tokens", pytest.approx(12.1))
    assert (by.record.model, by.record.prompt_tokens, by.record.completion_tokens) == ("sentiment", 500, 220)


def test_without_keys_anybody_uses_and_nobody_manages():
    client = client_of(Door.of(Settings()))
    assert client.get("/use/anything").json() == {"by": "anybody"}
    got = client.post("/manage")
    assert got.status_code == 403
    assert "this server keeps no keys, so nobody may manage its prompts" in got.text


def test_managing_without_keys_is_asked_for_and_local(monkeypatch):
    door = Door.of(Settings(allow_manage=True))
    for local in (LOCAL, "http://localhost:8000", "http://[::1]:8000"):
        assert client_of(door, local).post("/manage").status_code == 200
    rebound = client_of(door, "http://evil.example:8000")
    assert rebound.post("/manage").status_code == 403
    assert "answers to 127.0.0.1, localhost, ::1 only, not to `evil.example`" in rebound.post("/manage").text


def test_an_address_that_others_reach_needs_keys(path):
    with pytest.raises(ConfigError, match=r"other machines reach `0\.0\.0\.0` and there are no keys"):
        Door.of(Settings(host="0.0.0.0"))
    assert str(Door.of(Settings(host="0.0.0.0", anonymous=True))) == "to anybody, without a key"
    add_key(path, "ci")
    assert str(Door.of(Settings(host="0.0.0.0"))) == f"to the 1 keys of {path}"


def test_managing_without_keys_is_refused_where_others_reach():
    with pytest.raises(ConfigError, match="--allow-manage lets anybody change the prompts"):
        Door.of(Settings(host="10.0.0.1", anonymous=True, allow_manage=True))


def test_a_named_file_must_be_there(tmp_path):
    with pytest.raises(ConfigError, match="there is no file of keys"):
        Door.of(Settings(keys=tmp_path / "none.json"))


def test_near_names_are_those_that_a_key_may_use(path, key):
    by = Caller(Keyring(path).find(key))
    assert by.allowed(["support-a", "sentiment", "support-b"]) == ["support-a", "support-b"]
    with pytest.raises(Problem, match="there is no model `sentiment`"):
        by.may_use("sentiment")


def test_a_caller_has_an_address_or_none(path, key):
    request = SimpleNamespace(headers={}, client=None, scope={}, app=None)
    with pytest.raises(Problem, match="a key is needed"):
        Door(Keyring(path)).admit(request)


def test_metrics_name_every_prompt_so_that_a_key_for_some_may_not_read_them(path):
    keys = {
        "some": add_key(path, "some", prompts=("spam",), manage=True), "all": add_key(path, "all", manage=True),
        "watch": add_key(path, "watch", prompts=("spam",), watch=True),
    }  # fmt: skip
    some = client_of(Door(Keyring(path)))
    assert {name: some.get("/watch", headers=bearing(key)).status_code for name, key in keys.items()} == {
        "some": 403, "all": 200, "watch": 200,
    }  # fmt: skip


def test_without_keys_a_host_name_that_was_led_here_is_not_answered():
    door = Door.of(Settings())
    for local in (LOCAL, "http://localhost.:8000", "http://[::1]:8000"):
        assert client_of(door, local).get("/use/mood").status_code == 200
    assert client_of(door, "http://evil.example").get("/use/mood").status_code == 403
    assert (
        client_of(Door.of(Settings(host="0.0.0.0", anonymous=True)), "http://my.host").get("/use/m").status_code == 200
    )


def test_without_keys_no_other_page_changes_prompts():
    client = client_of(Door.of(Settings(allow_manage=True)))
    for origin, status in (("http://evil.example", 403), ("null", 403), ("http://localhost:8000", 200), (None, 200)):
        headers = {} if origin is None else {"Origin": origin}
        assert client.post("/v1/prompts/spam/unload", headers=headers).status_code == status
    assert client.get("/use/spam", headers={"Origin": "http://evil.example"}).status_code == 200

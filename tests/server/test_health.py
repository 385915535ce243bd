"""Alive, ready, and the gate that closes when the server ends; and what browsers are told."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI
from fastapi.middleware import Middleware
from fastapi.testclient import TestClient
from starlette.responses import HTMLResponse

from softprompt.server import health
from softprompt.server.headers import SafeHeaders
from softprompt.server.health import Gate, Health


@pytest.fixture
def state():
    return Health()


@pytest.fixture
def client(state):
    app = FastAPI(middleware=[Middleware(SafeHeaders), Middleware(Gate, health=state)])
    app.state.health = state
    app.include_router(health.router)
    seen = []

    @app.get("/v1/ask")
    async def ask() -> int:
        seen.append(state.in_flight)
        return state.in_flight

    @app.get("/page")
    async def page() -> HTMLResponse:
        return HTMLResponse("<p>docs")

    return TestClient(app)


def test_a_server_that_is_well_is_alive_and_ready(client, state):
    assert client.get("/healthz").json() == {"status": "ok"}
    got = client.get("/readyz")
    assert (got.status_code, got.json()) == (200, {"status": "ready"})
    assert client.get("/v1/ask").json() == 1
    assert state.in_flight == 0


def test_one_that_ends_is_alive_and_takes_nothing_new(client, state):
    state.draining = True
    assert client.get("/healthz").status_code == 200
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json() == {"status": "not ready", "reason": "the server is ending: it finishes what it has taken in"}
    got = client.get("/v1/ask")
    assert (got.status_code, got.headers["retry-after"], got.headers["connection"]) == (503, "1", "close")
    assert got.json()["error"]["code"] == "not_ready"


def test_one_whose_engine_died_says_so(client, state):
    reasons = ["the engine has ended because of an error of its own", None]
    state.check = lambda: reasons[0]
    assert client.get("/readyz").json()["reason"] == reasons[0]
    assert client.get("/v1/ask").json()["error"]["message"] == reasons[0]
    del reasons[0]
    assert client.get("/readyz").status_code == 200


def test_a_request_that_fails_is_not_in_flight_any_more(state):
    async def fails(scope, receive, send):
        assert state.in_flight == 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(Gate(fails, state)({"type": "http", "path": "/v1/ask"}, None, None))
    assert state.in_flight == 0


def test_answers_tell_browsers_to_do_nothing_with_them(client):
    headers = client.get("/v1/ask").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    page = client.get("/page").headers
    assert "content-security-policy" not in page
    assert page["x-frame-options"] == "DENY"

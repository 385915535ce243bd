"""One line a request, plain or JSON, with who and how long, and never what was asked or answered."""

from __future__ import annotations

import asyncio
import json
import logging
import sys

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from starlette.responses import StreamingResponse

from softprompt.server import logs
from softprompt.server.logs import JsonLines, PlainLines, RequestLog, configure, record_of


@pytest.fixture
def app():
    made = FastAPI()

    @made.post("/ask")
    async def ask(request: Request) -> dict[str, int]:
        record = record_of(request.scope)
        record.key, record.model, record.prompt_tokens, record.completion_tokens = "ci", "mood@v2", 23, 1
        return {"length": len(await request.body())}

    @made.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(iter([b"a", b"b"]))

    @made.get("/fails")
    async def fails() -> None:
        raise ZeroDivisionError("by zero")

    for probe in logs.PROBES:
        made.add_api_route(probe, stream)
    return made


@pytest.fixture
def lines(app, caplog):
    """A client, and what it makes the server log."""
    caplog.set_level(logging.INFO, "softprompt.server.logs")
    client = TestClient(RequestLog(app), raise_server_exceptions=False)

    def ask(*call, **more):
        caplog.clear()
        return client.request(*call, **more), [r for r in caplog.records if r.name == "softprompt.server.logs"]

    return ask


def test_a_request_is_one_line_without_its_texts(lines):
    got, (record,) = lines("POST", "/ask?secret=no", content=b"what nobody else may read")
    assert got.json() == {"length": 25}
    told = json.loads(JsonLines().format(record))
    assert told["message"] == "POST /ask 200"
    assert (told["key"], told["model"], told["prompt_tokens"], told["completion_tokens"]) == ("ci", "mood@v2", 23, 1)
    assert (told["level"], told["logger"]) == ("info", "softprompt.server.logs")
    assert 0 <= told["first_s"] <= told["seconds"] < 5
    assert "nobody" not in json.dumps(told)
    assert "secret" not in json.dumps(told)


def test_the_answer_carries_the_id_of_its_line(lines):
    got, (record,) = lines("GET", "/stream")
    assert got.headers["x-request-id"] == record.id
    assert len(record.id) == 32
    got, (record,) = lines("GET", "/stream", headers={"X-Request-Id": "my-trace.7"})
    assert got.headers["x-request-id"] == record.id == "my-trace.7"


@pytest.mark.parametrize("wrong", ["", "a b", "x" * 65, "a;b", "é"])
def test_an_id_that_is_none_is_not_repeated(lines, wrong):
    got, (record,) = lines("GET", "/stream", headers={"X-Request-Id": wrong.encode()})
    assert got.headers["x-request-id"] == record.id != wrong


def test_probes_are_logged_when_they_fail(lines):
    for probe in logs.PROBES:
        assert lines("GET", probe)[1] == []
    _, (record,) = lines("POST", "/healthz")
    assert record.getMessage() == "POST /healthz 405"


def test_what_a_caller_writes_cannot_make_a_line(lines):
    _, (record,) = lines("GET", "/nowhere%0A2026-01-01 info GET /admin 200")
    assert "\n" not in PlainLines().format(record)
    assert "GET /nowhere%0A2026-01-01%20info%20GET%20/admin%20200 404" in PlainLines().format(record)
    assert "\n" not in JsonLines().format(record)


def test_lines_can_be_switched_off(app, caplog):
    caplog.set_level(logging.INFO)
    assert "x-request-id" in TestClient(RequestLog(app, enabled=False)).get("/stream").headers
    assert not [record for record in caplog.records if record.name == "softprompt.server.logs"]


def test_a_caller_who_left_and_a_fault_have_a_status(app, lines, caplog):
    _, (record,) = lines("GET", "/fails")
    assert record.getMessage() == "GET /fails 500"
    caplog.clear()
    scope = {"type": "http", "method": "GET", "path": "/left", "headers": [], "client": None}
    asyncio.run(RequestLog(silent)(scope, None, None))
    assert caplog.records[0].getMessage() == "GET /left 499"


async def silent(scope, receive, send):
    """Answers nothing, as nobody is there."""


def made(message, **extra):
    record = logging.LogRecord("softprompt.x", logging.WARNING, "x.py", 1, message, (), None)
    vars(record).update(extra)
    return record


def test_a_plain_line_is_for_a_person():
    line = PlainLines().format(made("the store is empty", key="ci", seconds=0.25))
    assert line.endswith("Z warning the store is empty key=ci seconds=0.25")
    assert line[4] == "-"


@pytest.mark.parametrize("form", [PlainLines(), JsonLines()])
def test_an_exception_is_told_whole(form):
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError:
        record = made("failed")
        record.exc_info = sys.exc_info()
    assert "ZeroDivisionError: by zero" in form.format(record)


@pytest.fixture
def loggers():
    """Loggers as they were, afterwards."""
    own = [logging.getLogger(name) for name in ("softprompt", "uvicorn", "uvicorn.error")]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in own]
    yield
    for logger, (handlers, propagate, level) in zip(own, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_uvicorn_s_lines_have_the_same_form(loggers, capsys):
    configure("json")
    logging.getLogger("uvicorn.error").warning("invalid %s", "request")
    logging.getLogger("softprompt.server").info("listening", extra={"port": 8000})
    logging.getLogger("uvicorn.error").info("started")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["logger"], first["message"]) == ("uvicorn.error", "invalid request")
    assert (second["message"], second["port"]) == ("listening", 8000)
    configure("plain")
    logging.getLogger("softprompt.server").info("again")
    assert capsys.readouterr().err.endswith("Z info again\n")

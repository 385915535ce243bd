"""Every error is answered in OpenAI's shape, with the status that clients act on."""

import asyncio
import threading
import time

import pytest
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from softprompt.errors import (
    BackboneError,
    DataError,
    DeadlineError,
    EngineClosedError,
    QueueFullError,
    RequestCancelledError,
    TemplateError,
)
from softprompt.server.reading import body_of
from softprompt.server.schema import ChatForm, ClassifyForm, CompletionForm
from softprompt.serving.asking import Failed

SHAPE = {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("error", "status", "code", "after"),
    [
        (QueueFullError("1,024 requests wait", 2.4), 429, "queue_full", "3"),
        (EngineClosedError("the engine is ending"), 503, "engine_closed", "1"),
        (DeadlineError("not answered within 5 s"), 504, "deadline_exceeded", None),
        (TemplateError("no room for the text"), 400, None, None),
        (DataError("a row without words"), 400, None, None),
        (RequestCancelledError("given up"), 499, "cancelled", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_refuses_or_fails_with(rig, error, status, code, after, stream):
    rig.engine.refusal = (0, error)
    refused = rig.chat("summary", "a", stream=stream)
    rig.engine.refusal, rig.engine.script = None, lambda ask: [Failed(error)]
    failed = rig.chat("summary", "a", stream=stream)
    for reply in (refused, failed):
        assert (reply.status, reply.error["code"]) == (status, code)
        assert set(reply.error) == SHAPE
        assert reply.error["message"] == str(error)
        assert reply.headers.get("retry-after") == after
        assert reply.headers["x-request-id"]


@pytest.mark.parametrize("error", [RuntimeError("secret: /etc/passwd"), BackboneError("secret")])
def test_the_unforeseen_is_500_and_stays_inside(rig, error, caplog):
    rig.engine.refusal = (0, error)
    for reply in (rig.chat("summary", "a"), rig.classify(model="sentiment", input="a")):
        assert (reply.status, reply.error["code"], reply.error["type"]) == (500, "internal_error", "server_error")
        assert "secret" not in reply.data.decode()
    record = next(record for record in caplog.records if "a request failed" in record.message)
    assert record.id
    assert "secret" in caplog.text


def test_an_error_in_the_middle_of_a_stream_ends_it(rig, script):
    gate = threading.Event()

    def failing(ask):
        yield next(script("a b"))
        yield gate
        yield Failed(DeadlineError("not answered within 5 s"))

    rig.engine.script = failing
    threading.Timer(0.1, gate.set).start()
    reply = rig.chat("summary", "a", stream=True)
    assert reply.status == 200
    first, last = reply.events
    assert first["choices"][0]["delta"]["content"] == "a "
    assert last == {
        "error": {
            "message": "not answered within 5 s", "type": "server_error", "param": None, "code": "deadline_exceeded",
        }
    }  # fmt: skip


def test_a_fault_in_the_middle_of_a_stream_stays_inside(rig, script, caplog):
    gate = threading.Event()

    def failing(ask):
        yield next(script("a b"))
        yield gate
        yield Failed(ZeroDivisionError("secret"))

    rig.engine.script = failing
    threading.Timer(0.1, gate.set).start()
    last = rig.chat("summary", "a", stream=True).events[-1]
    assert last["error"]["code"] == "internal_error"
    assert "secret" in caplog.text


def test_rows_before_one_that_is_refused_are_given_up(rig):
    rig.engine.script = lambda ask: [threading.Event()]
    rig.engine.refusal = (3, QueueFullError("full"))
    assert rig.classify(model="sentiment", input=["a"] * 5).status == 429
    assert len(rig.engine.tickets) == 3
    assert all(ticket.cancelled.wait(5) for ticket in rig.engine.tickets)


def test_one_row_that_fails_ends_the_others(rig, script):
    rig.engine.script = lambda ask: [Failed(DataError("bad"))] if ask.fields["text"] == "b" else [threading.Event()]
    assert rig.complete("summary", ["a", "b", "c"]).status == 400
    first, second, third = rig.engine.tickets
    assert first.cancelled.wait(5)
    assert third.cancelled.wait(5)
    assert not second.cancelled.is_set()


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "unknown_path"),
        ("POST", "/v1/embeddings", 404, "unknown_path"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
    ],
)
def test_unknown_paths_and_methods(rig, method, path, status, code):
    reply = rig.send(method, path)
    assert (reply.status, reply.error["code"]) == (status, code)
    assert set(reply.error) == SHAPE
    assert (reply.headers.get("allow") is not None) == (status == 405)


def test_a_body_that_is_too_large_is_413(rig):
    told = rig.complete("summary", "a" * 200_000)
    in_chunks = rig.post("/v1/completions", iter([b"{" + b" " * 60_000] * 3))
    for reply in (told, in_chunks):
        assert (reply.status, reply.error["code"]) == (413, "body_too_large")
        assert "more than the 100,000 bytes" in reply.error["message"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_says_that_it_is_json(rig, kind):
    reply = rig.post("/v1/completions", {"model": "summary", "prompt": "a"}, Content_Type=kind)
    assert (reply.status, reply.error["code"]) == (415, "unsupported_media_type")


def test_json_may_say_its_charset(rig):
    asked = {"model": "summary", "prompt": "a"}
    assert rig.post("/v1/completions", asked, Content_Type="application/json; charset=utf-8").status == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"[]", "cannot be read"),
        (b"null", "cannot be read"),
        (b'{"model": "\xff"}', "cannot be read"),
        (b'{"model": "\\ud800"}', "cannot be read"),
        (b"[" * 10_000, "cannot be read"),
        (b'{"model": "summary", "prompt": "a", "temprature": 1}', "unknown field `temprature`; did you mean"),
        (b'{"model": "summary", "prompt": "a", "qqqqqq": 1}', "unknown field `qqqqqq`; take it out"),
        (b'{"prompt": "a"}', "`model` is missing"),
        (b'{"model": "summary", "prompt": "a", "temperature": "1"}', "`temperature`: input should be a valid number"),
        (b'{"model": "summary", "prompt": "a", "temperature": NaN}', "`temperature`"),
        (b'{"model": "summary", "prompt": "a", "temperature": -1}', "greater than or equal to 0"),
        (b'{"model": "summary", "prompt": "a", "n": 1.5}', "`n`"),
        (b'{"model": "summary", "prompt": "a", "stop": ""}', "`stop` is a text"),
        (b'{"model": "summary", "prompt": "a", "seed": 1' + b"0" * 5000 + b"}", ""),
    ],
)
def test_bodies_that_cannot_be_read_say_why(rig, body, words):
    reply = rig.post("/v1/completions", body)
    assert reply.status == 400, reply.data
    assert set(reply.error) == SHAPE
    assert words in reply.error["message"]
    assert len(reply.error["message"]) < 1000


@pytest.mark.parametrize(
    ("form", "body"),
    [
        (ClassifyForm, b'{"model": "a", "input": [%s5]}'),
        (ClassifyForm, b'{"requests": [%s{}]}'),
        (CompletionForm, b'{"model": "a", "prompt": [%s5]}'),
        (ChatForm, b'{"model": "a", "messages": [%s5]}'),
        (ChatForm, b'{"model": "a", "stop": [%s5]}'),
    ],
)
def test_a_million_mistakes_are_one_error(form, body):
    element = b"{}," if b"requests" in body else b"5,"
    with pytest.raises(ValidationError) as caught:
        form.model_validate_json(body % (element * 10_000))
    assert caught.value.error_count() < 5


def test_a_row_with_many_wrong_fields_is_one_error(rig):
    fields = {f"f{i}": 5 for i in range(300)}
    assert "the field `f0` is no text" in rig.chat("judge", fields=fields).error["message"]
    fields = {f"f{i}": "a" for i in range(300)}
    assert "a row has 1 to 256 fields" in rig.chat("judge", fields=fields).error["message"]
    assert "unknown field `f0`" in rig.chat("judge", **fields).error["message"]
    assert "unknown field `x`" in rig.classify(requests=[{"model": "stars", "input": "a", "x": 1}]).error["message"]
    assert "unknown field `x`" in rig.chat("stars", "a", stream_options={"x": 1}).error["message"]


def test_a_long_message_is_cut(rig):
    reply = rig.chat("reply", [{"role": "system", "content": "x" * 50_000}, {"role": "user", "content": "a"}])
    assert reply.status == 400
    assert reply.error["message"].startswith("the row has the system message `xxx")
    assert len(reply.error["message"]) == 1001


def test_a_caller_that_leaves_gives_its_rows_up(rig):
    rig.engine.script = lambda ask: [threading.Event()]
    for stream in (False, True):
        leave(rig, {"model": "summary", "prompt": ["a", "b"], "stream": stream}, rows=2)
    assert len(rig.engine.tickets) == 4
    assert all(ticket.cancelled.wait(5) for ticket in rig.engine.tickets)


def test_a_caller_that_leaves_in_the_middle_of_a_stream(rig, script):
    rig.engine.script = lambda ask: [next(script("a b")), threading.Event()]
    leave(rig, {"model": "summary", "prompt": "a", "stream": True}, read=200)
    assert rig.engine.tickets[0].cancelled.wait(5)


def test_a_caller_that_leaves_in_the_middle_of_its_request():
    class Broken:
        headers = {}

        async def stream(self):
            yield b"{"
            raise ClientDisconnect

    with pytest.raises(RequestCancelledError, match="the caller left before the request was complete"):
        asyncio.run(body_of(Broken(), 10))


def leave(rig, body, read=0, rows=1):
    """Ask, wait until the engine has the rows, read some bytes of the answer, and go."""
    import json
    import socket

    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    there = len(rig.engine.tickets) + rows
    with socket.create_connection((rig.host, rig.port)) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode() + data)
        while read > 0:
            read -= len(connection.recv(read))
        until = time.monotonic() + 5
        while len(rig.engine.tickets) < there and time.monotonic() < until:
            time.sleep(0.01)


def test_ids_of_requests_come_back(rig):
    assert rig.get("/v1/models", X_Request_Id="mine-7").headers["x-request-id"] == "mine-7"
    first, second = (rig.get("/nowhere").headers["x-request-id"] for _ in range(2))
    assert first != second


def test_the_endpoints_are_described(rig):
    paths = rig.get("/openapi.json").json["paths"]
    schema = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["model"]["type"] == "string"
    assert "$ref" not in str(schema)
    assert paths["/v1/classify"]["post"]["requestBody"]
    assert rig.get("/docs").status == 200

"""A server put together and ended: health, keys, metrics, telemetry, other origins, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib.machinery
import logging
import signal
import threading
import time
import urllib.request
from types import SimpleNamespace

import pytest
import torch
import uvicorn
from fastapi import FastAPI
from fastapi.middleware import Middleware
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.responses import StreamingResponse

from softprompt.errors import ConfigError, MissingExtraError
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.server import operation, running
from softprompt.server.health import Gate, Health
from softprompt.server.keyring import add_key
from softprompt.server.operation import telemetry
from softprompt.server.ports import bind
from softprompt.server.running import Draining, Parts, assemble, run
from softprompt.server.settings import Settings
from softprompt.store.store import PromptStore
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_backbone

LOCAL = "http://127.0.0.1"


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone("llama")


@pytest.fixture
def store(tmp_path, monkeypatch, backbone):
    monkeypatch.setenv("SOFTPROMPT_HOME", str(tmp_path))
    rows = torch.randn(3, backbone.embedding_size, generator=torch.Generator().manual_seed(0))
    template, words = Template("{bos}{soft}Text: {text}\nLabel:"), LabelWords.from_labels(["ham", "spam"])
    store = PromptStore(tmp_path / "store")
    store.put(SoftPrompt({"input": rows}, template, words, backbone.fingerprint), "spam")
    return store


@pytest.fixture
def parts_of(backbone, store):
    """Put servers together, and end their engines."""
    made = []

    def put(**settings):
        made.append(assemble(backbone, store, Settings(**settings)))
        return made[-1]

    yield put
    for parts in made:
        parts.engine.close(drain=False, timeout=10)


def classified(client):
    got = client.post("/v1/classify", json={"model": "spam", "input": "WINNER! call now"})
    assert got.status_code == 200, got.text
    return got


def test_the_parts_answer_are_measured_and_logged(parts_of, caplog):
    caplog.set_level(logging.INFO, "softprompt.server.logs")
    parts = parts_of()
    client = TestClient(parts.app, base_url=LOCAL)
    assert client.get("/readyz").json() == {"status": "ready"}
    got = classified(client)
    assert got.headers["x-request-id"]
    assert got.headers["x-content-type-options"] == "nosniff"
    line = caplog.records[-1]
    assert line.getMessage() == "POST /v1/classify 200"
    assert (line.key, line.model) == ("anybody", "spam@v1")
    assert line.prompt_tokens > 0
    told = client.get("/metrics").text
    assert 'vllm:request_success_total{finished_reason="read",model_name="spam"} 1.0' in told
    assert 'vllm:num_requests_running{model_name="tiny-llama"} 0.0' in told
    assert 'softprompt:http_responses_total{method="POST",status="200"} 1.0' in told


def test_an_engine_that_died_is_not_ready(parts_of):
    parts = parts_of()
    parts.engine.close(drain=False, timeout=10)
    got = TestClient(parts.app, base_url=LOCAL).get("/readyz")
    assert got.status_code == 503
    assert got.json()["reason"] == "the engine has ended because of an error of its own"


def test_metrics_can_be_switched_off(parts_of):
    assert TestClient(parts_of(metrics=False).app, base_url=LOCAL).get("/metrics").status_code == 404


def test_keys_hold_for_every_path_but_the_probes(parts_of, tmp_path):
    key = add_key(tmp_path / "keys.json", "ci")
    client = TestClient(parts_of().app, base_url=LOCAL)
    assert [client.get(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]
    guarded = ("/metrics", "/v1/models", "/v1/models/spam", "/v1/prompts")
    assert [client.get(path).status_code for path in guarded] == [401] * 4
    assert client.post("/v1/classify", json={}).status_code == 401
    client.headers["authorization"] = f"Bearer {key}"
    assert [client.get(path).status_code for path in guarded] == [403, 200, 200, 403]
    classified(client)


def test_no_page_of_another_origin_may_call_unless_it_is_named(parts_of):
    asks = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    closed = TestClient(parts_of().app, base_url=LOCAL)
    assert "access-control-allow-origin" not in closed.options("/v1/classify", headers=asks).headers
    client = TestClient(parts_of(cors="https://app.example, https://b.example").app, base_url=LOCAL)
    assert client.options("/v1/classify", headers=asks).headers["access-control-allow-origin"] == "https://app.example"
    other = client.options("/v1/classify", headers={**asks, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers
    got = client.get("/v1/models", headers={"Origin": "https://b.example"})
    assert got.headers["access-control-allow-origin"] == "https://b.example"
    assert "access-control-allow-credentials" not in got.headers
    for method in ("PUT", "DELETE"):
        managing = {**asks, "Access-Control-Request-Method": method}
        assert client.options("/v1/prompts/spam", headers=managing).status_code == 400


def test_an_ending_server_answers_503_and_says_why(parts_of):
    parts = parts_of()
    client = TestClient(parts.app, base_url=LOCAL)
    parts.health.draining = True
    got = client.post("/v1/classify", json={"model": "spam", "input": "a"})
    assert got.status_code == 503
    assert "the server is ending" in got.json()["error"]["message"]
    assert client.get("/metrics").status_code == 200


@pytest.fixture
def draining():
    health = Health()
    server = Draining(uvicorn.Config(None), SimpleNamespace(health=health), 30)
    return server, health


def test_the_first_signal_drains_and_the_second_ctrl_c_ends(draining):
    server, health = draining
    server.handle_exit(signal.SIGTERM, None)
    assert (health.draining, server.should_exit) == (True, False)
    server.handle_exit(signal.SIGTERM, None)
    assert not server.should_exit
    server.handle_exit(signal.SIGINT, None)
    assert (server.should_exit, server.force_exit) == (True, True)


async def ticks(server):
    return await server.on_tick(1)


def test_when_it_begins_to_end_bodies_are_waited_for_no_longer(draining):
    server, health = draining
    health.in_flight = 1

    async def main():
        async with asyncio.timeout(30) as waiting:
            health.coming.add(waiting)
            server.handle_exit(signal.SIGTERM, None)
            await ticks(server)
            await asyncio.sleep(30)

    began = time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert time.monotonic() - began < 10


def test_it_closes_when_nothing_is_in_flight_or_time_is_up(draining):
    server, health = draining
    health.in_flight = 1
    assert not asyncio.run(ticks(server))
    server.handle_exit(signal.SIGINT, None)
    assert not asyncio.run(ticks(server))
    health.in_flight = 0
    assert asyncio.run(ticks(server))
    health.in_flight, server._until = 1, 0.0
    assert asyncio.run(ticks(server))


class Ended:
    """What has to be ended behind a server."""

    def __init__(self):
        self.calls = []

    def start(self):
        self.calls.append("start")

    def close(self, *, drain=True, timeout=None):
        self.calls.append("close")


@pytest.fixture
def slow(monkeypatch):
    """A server in a thread whose one answer takes as long as the test wants; give it signals, and read how it ended."""
    health, go = Health(), threading.Event()

    async def parts():
        yield b"begun\n"
        while not go.is_set():
            await asyncio.sleep(0.01)
        yield b"done\n"

    app = FastAPI(middleware=[Middleware(Gate, health=health)])
    app.add_api_route("/slow", lambda: StreamingResponse(parts()))
    servers = []

    class Watched(Draining):
        def __init__(self, *given):
            super().__init__(*given)
            servers.append(self)

    monkeypatch.setattr(running, "Draining", Watched)
    taken, how = bind("127.0.0.1", 0), []
    whole = Parts(app, Ended(), Ended(), health, None)

    def work(drain):
        try:
            run(whole, Settings(drain=drain), taken)
            how.append("well")
        except KeyboardInterrupt:
            how.append("interrupted")

    def start(drain):
        thread = threading.Thread(target=work, args=(drain,))
        thread.start()
        while not (servers and servers[0].started):
            time.sleep(0.01)
        stream = urllib.request.urlopen(f"http://127.0.0.1:{taken.getsockname()[1]}/slow", timeout=20)
        assert stream.readline() == b"begun\n"
        return SimpleNamespace(signal=servers[0].handle_exit, go=go, stream=stream, thread=thread, how=how, parts=whole)

    yield start
    go.set()
    taken.close()


def rest_of(stream):
    with stream, contextlib.suppress(http.client.IncompleteRead, OSError):
        return stream.read()
    return None


def test_what_is_in_flight_is_finished(slow, caplog):
    caplog.set_level(logging.INFO, "softprompt.server.running")
    server = slow(drain=20)
    server.signal(signal.SIGTERM, None)
    time.sleep(0.3)
    server.go.set()
    assert rest_of(server.stream) == b"done\n"
    server.thread.join(20)
    assert server.how == ["well"]
    assert [record.getMessage() for record in caplog.records if record.name == running.__name__][-2:] == [
        "ending: 1 requests in flight have up to 20 s",
        "ended: every request that was taken in was answered",
    ]
    assert (server.parts.catalog.calls, server.parts.engine.calls) == (["start", "close"], ["close"])


def test_what_takes_too_long_is_broken_off(slow, caplog, monkeypatch):
    monkeypatch.setattr(running, "LAST_WORDS", 1)
    server = slow(drain=0.2)
    server.signal(signal.SIGINT, None)
    assert rest_of(server.stream) is None
    server.thread.join(20)
    assert server.how == ["well"]
    assert "ended: 1 requests were broken off after 0.2 s" in caplog.messages


def test_a_second_ctrl_c_does_not_wait(slow):
    server = slow(drain=60)
    server.signal(signal.SIGINT, None)
    began = time.monotonic()
    server.signal(signal.SIGINT, None)
    assert rest_of(server.stream) is None
    server.thread.join(20)
    assert server.how == ["interrupted"]
    assert time.monotonic() - began < 5


def test_telemetry_is_off_unless_asked_for_and_never_logs(monkeypatch):
    off = telemetry(Settings())
    assert not any(off.values())
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setattr(operation, "find_spec", lambda name: importlib.machinery.ModuleSpec(name, None))
    on = telemetry(Settings(telemetry=True))
    assert on == {"tracing": True, "metrics": True, "logs": False, "operation_spans": True, "auto_configure": True}


def test_telemetry_says_what_it_lacks(monkeypatch):
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    monkeypatch.setattr(operation, "find_spec", lambda name: importlib.machinery.ModuleSpec(name, None))
    with pytest.raises(ConfigError, match="telemetry has nowhere to export to; set OTEL_EXPORTER_OTLP_ENDPOINT"):
        telemetry(Settings(telemetry=True))
    monkeypatch.setattr(operation, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"telemetry needs opentelemetry\.sdk, .*softprompt\[telemetry\]"):
        telemetry(Settings(telemetry=True))

    def nothing(name):
        raise ModuleNotFoundError(f"No module named {name}", name="opentelemetry.exporter")

    monkeypatch.setattr(operation, "find_spec", nothing)
    with pytest.raises(MissingExtraError, match=r"telemetry needs opentelemetry\.exporter"):
        telemetry(Settings(telemetry=True))


def test_requests_are_traced_and_their_texts_are_not(parts_of, monkeypatch):
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    asked = {**telemetry(Settings(telemetry=True)), "tracer_provider": provider, "auto_configure": False}
    monkeypatch.setattr(operation, "telemetry", lambda settings: asked)
    client = TestClient(parts_of().app, base_url=LOCAL)
    classified(client)
    client.post("/v1/classify", json={"model": "spam", "input": "WINNER!", "fields": 5})
    provider.shutdown()
    told = [span.to_json() for span in spans.get_finished_spans()]
    assert any("POST /v1/classify" in span for span in told)
    assert not any("WINNER" in span for span in told)


def test_no_thread_is_left_by_a_server_that_was_put_together(parts_of):
    parts = parts_of()
    parts.engine.close(timeout=10)
    assert not [thread for thread in threading.enumerate() if thread.name == "softprompt-catalog"]

"""Two servers on Ray Serve answer as one model does; the settings that Ray is told, and the example for Kubernetes."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from softprompt.cli.app import app
from softprompt.errors import ConfigError, EngineClosedError, MissingExtraError
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.server.replicas import APPLICATION, Fleet, Replica, build, deploy, options_of, run, shut_down
from softprompt.server.settings import Settings
from softprompt.store.store import PromptStore
from softprompt.tasks.free_text import Text
from softprompt.testing.conformance import prompt, rows
from softprompt.testing.tiny import tiny_backbone

EXAMPLE = Path(__file__).parents[2] / "deploy" / "kuberay.yaml"
RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not RAY, reason="the extra `ray` (Ray Serve) is not installed")


def test_a_fleet_is_what_is_asked_for_or_an_error() -> None:
    fleet = Fleet.of(backbone="x", replicas=2, settings={"rows": 8, "queue": 4, "drain": 3})
    assert options_of(fleet) == {
        "name": "Replica",
        "max_ongoing_requests": 12,
        "graceful_shutdown_timeout_s": 8.0,
        "ray_actor_options": {"num_cpus": 1.0, "num_gpus": 0.0},
        "num_replicas": 2,
    }
    scaled = options_of(Fleet.of(backbone="x", replicas=2, max_replicas=5, gpus=1, settings={"rows": 8}))
    assert "num_replicas" not in scaled
    assert scaled["autoscaling_config"] == {"min_replicas": 2, "max_replicas": 5, "target_ongoing_requests": 8}
    for given, message in (
        ({"backbone": "x", "replicas": 0}, r"option `replicas` of the replicas is 0: .* greater than or equal to 1"),
        ({"replicas": 1}, "option `backbone` of the replicas is"),
        ({"backbone": "x", "replics": 2}, "option `replics` of the replicas is 2"),
        ({"backbone": "x", "settings": {"rows": 0}}, r"option `settings.rows` of the replicas is 0"),
        ({"backbone": "x", "replicas": 3, "max_replicas": 2}, "there are to be at least 3 replicas and at most 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            Fleet.of(**given)


def test_the_example_for_kubernetes_is_one_that_we_can_build() -> None:
    service = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    module, _, name = application["import_path"].partition(":")
    assert getattr(importlib.import_module(module), name) is build
    fleet = Fleet.of(**application["args"])
    cluster = service["spec"]["rayClusterConfig"]
    (workers,) = cluster["workerGroupSpecs"]
    assert (workers["minReplicas"], workers["maxReplicas"]) == (fleet.replicas, fleet.max_replicas)
    pods = [cluster["headGroupSpec"]["template"]["spec"], workers["template"]["spec"]]
    for pod in pods:
        mounted = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted.keys() == {volume["name"] for volume in pod["volumes"]}
        assert fleet.store == mounted["store"]
        assert str(fleet.settings.keys).startswith(mounted["keys"])
    assert float(pods[1]["containers"][0]["resources"]["requests"]["cpu"]) >= fleet.cpus


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    with pytest.raises(MissingExtraError, match=r'not installed: pip install "softprompt\[ray\]"'):
        build({"backbone": "x"})
    with pytest.raises(MissingExtraError, match="replicas need Ray Serve"):
        deploy(Fleet(backbone="x"))


def test_a_replica_is_a_server_that_says_when_its_engine_has_ended(home: Fleet) -> None:
    replica = Replica(home.model_dump(mode="json"))
    paths = {getattr(route, "path", "") for route in replica.__serve_build_asgi_app__().routes}
    assert paths  # the application of `softprompt serve`; its endpoints have tests of their own
    replica.check_health()
    replica._parts.engine.close(drain=False)
    with pytest.raises(EngineClosedError, match="the engine has ended"):
        replica.check_health()
    replica.__del__()


# --- what is asked of Ray -------------------------------------------------------------------------------------------


class FakeRay:
    """Ray and Ray Serve that only note what is asked of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.running = self.fails = False
        ray, serve = ModuleType("ray"), ModuleType("ray.serve")
        ray.serve, ray.is_initialized = serve, lambda: self.running
        ray.exceptions = SimpleNamespace(RayError=LookupError)
        ray.init = lambda **options: self.note("init", options, running=True)
        ray.shutdown = lambda: self.note("ray.shutdown", None, running=False)
        serve.start = lambda http_options: self.note("start", http_options)
        serve.shutdown = lambda: self.note("serve.shutdown", None)
        serve.ingress = lambda: lambda cls: cls
        serve.deployment = lambda cls, **options: SimpleNamespace(bind=lambda told: (cls, options, told))
        serve.run = self.run
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setitem(sys.modules, "ray.serve", serve)

    def note(self, name: str, what: Any, running: bool | None = None) -> None:
        self.running = self.running if running is None else running
        self.calls.append((name, what))

    def run(self, application: Any, name: str, route_prefix: str) -> None:
        if self.fails:
            raise RuntimeError("Deploying application softprompt failed: no such backbone")
        self.note("run", application)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    return FakeRay(monkeypatch)


def test_ray_is_told_where_to_listen_and_what_to_run(fake: FakeRay) -> None:
    fleet = Fleet(backbone="x", replicas=2, settings=Settings(port=0))
    url = deploy(fleet, num_cpus=3)
    (_, init), (_, start), (_, (cls, options, told)) = fake.calls
    assert init == {"include_dashboard": False, "num_cpus": 3}
    assert url == f"http://127.0.0.1:{start['port']}"
    assert start["port"] > 0
    assert (cls, options) == (Replica, options_of(fleet))
    assert Fleet.of(**json.loads(json.dumps(told))) == fleet
    deploy(fleet)
    assert [name for name, _ in fake.calls].count("init") == 1  # it ran already
    assert build({"backbone": "x", "replicas": 2, "settings": {"port": 0}}) == fake.calls[-1][1]


def test_replicas_that_do_not_start_are_an_error_and_all_ends(fake: FakeRay) -> None:
    fake.fails = True
    with pytest.raises(EngineClosedError, match="the replicas did not start: Deploying application softprompt failed"):
        run(Fleet(backbone="x", settings=Settings(port=0)))
    assert [name for name, _ in fake.calls][-2:] == ["serve.shutdown", "ray.shutdown"]


def test_a_signal_ends_the_replicas(fake: FakeRay) -> None:
    before = signal.getsignal(signal.SIGTERM)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    run(Fleet(backbone="x", settings=Settings(port=0)))
    timer.join()
    assert [name for name, _ in fake.calls] == ["init", "start", "run", "serve.shutdown", "ray.shutdown"]
    assert signal.getsignal(signal.SIGTERM) is before
    shut_down()
    assert len(fake.calls) == 5  # nothing runs any more


def test_the_command_asks_for_replicas(fake: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Fleet] = []
    monkeypatch.setattr("softprompt.server.replicas.run", asked.append)
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    words = ["serve", "--backbone", "tiny", "--store", "here", "--replicas", "2", "--max-replicas", "4", "--rows", "8"]
    result = CliRunner().invoke(app, [*words, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    (fleet,) = asked
    assert (fleet.backbone, fleet.store) == (str(tmp_path / "tiny"), str(tmp_path / "here"))
    assert (fleet.replicas, fleet.max_replicas, fleet.gpus, fleet.settings.rows) == (2, 4, 0.0, 8)


def test_an_engine_of_another_kind_is_named_by_its_extra(home: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    settings = home.settings.model_copy(update={"engine": "vllm"})
    with pytest.raises(MissingExtraError, match=r"the engine `vllm` needs vLLM"):
        Replica(home.model_copy(update={"settings": settings}).model_dump(mode="json"))


# --- on Ray ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def backbone() -> Any:
    return tiny_backbone("llama")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, backbone: Any) -> Fleet:
    """A tiny backbone and a store on disk, for two servers."""
    folder = tmp_path_factory.mktemp("fleet")
    backbone.model.save_pretrained(folder / "tiny")
    backbone.tokenizer.save_pretrained(folder / "tiny")
    store = PromptStore(folder / "store")
    store.put(prompt(backbone, 5, seed=1), "labels")
    store.put(replace(prompt(backbone, 4, seed=2), readout=Text(12), requires=()), "story")
    settings = Settings(port=0, rows=8, drain=5, request_log=False)
    return Fleet(
        backbone=str(folder / "tiny"),
        store=str(folder / "store"),
        dtype="fp32",
        replicas=2,
        cpus=0.5,
        settings=settings,
    )


@pytest.fixture(scope="module")
def url(home: Fleet) -> Any:
    """The two servers, running; Ray is given time, for this machine may have other things to do before nice workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        for check in ("READY", "HEALTH"):
            patch.setenv(f"RAY_SERVE_PROXY_{check}_CHECK_TIMEOUT_S", "60")
        try:
            yield deploy(home, num_cpus=4, object_store_memory=200 << 20, log_to_driver=False)
        finally:
            shut_down()


def ask(url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    asked = urllib.request.Request(url + path, None if body is None else json.dumps(body).encode())
    asked.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(asked, timeout=60) as reply:
        return reply.read()


@pytest.mark.ray
@pytest.mark.slow
@needs_ray
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
class TestTwoReplicas:
    def test_both_run(self, url: str) -> None:
        from ray import serve

        (deployment,) = serve.status().applications[APPLICATION].deployments.values()
        assert {str(getattr(state, "value", state)): count for state, count in deployment.replica_states.items()} == {
            "RUNNING": 2
        }
        names = [model["id"] for model in json.loads(ask(url, "/v1/models"))["data"]]
        assert {"labels", "story"} <= set(names)

    def test_answers_are_those_of_one_model(self, url: str, home: Fleet, backbone: Any) -> None:
        store = PromptStore(home.store)
        model = PromptedModel(backbone)
        asked = rows(12)
        expected = [answer.label for answer in model.score(asked, store.get("story"))]

        def complete(row: dict[str, str]) -> str:
            body = {"model": "story", "messages": [{"role": "user", "content": row["text"]}], "temperature": 0}
            return str(json.loads(ask(url, "/v1/chat/completions", body))["choices"][0]["message"]["content"]).strip()

        asked_for = [(row, label) for row, label in zip(asked, expected, strict=True) if set(row) == {"text"}]
        assert len(asked_for) == 12
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(complete, [row for row, _ in asked_for]))
        assert found == [label for _, label in asked_for]

    def test_a_stream_comes_in_pieces(self, url: str, home: Fleet, backbone: Any) -> None:
        body = {"model": "story", "messages": [{"role": "user", "content": "hello"}], "temperature": 0, "stream": True}
        lines = ask(url, "/v1/chat/completions", body).decode().split("\n\n")
        events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        pieces = [json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-1]]
        (expected,) = PromptedModel(backbone).score([{"text": "hello"}], PromptStore(home.store).get("story"))
        assert "".join(pieces).strip() == expected.label
        assert sum(bool(piece) for piece in pieces) > 1

    def test_the_port_is_taken(self, url: str, home: Fleet) -> None:
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)):
            pass
        settings = home.settings.model_copy(update={"port": port})
        with pytest.raises(ConfigError, match=f"port {port} of `127.0.0.1` is in use"):
            deploy(home.model_copy(update={"settings": settings}))

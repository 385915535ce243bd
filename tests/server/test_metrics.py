"""What Prometheus reads: vLLM's names, our own, and the same memory with ten thousand prompts as with ten."""

from __future__ import annotations

import asyncio
import random
from threading import Thread

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from softprompt.server import metrics as measuring
from softprompt.server.busiest import AGING, CANDIDATES, Busiest
from softprompt.server.keyring import Key
from softprompt.server.keys import Caller, caller
from softprompt.server.metrics import OTHER, Counted, Metrics
from softprompt.server.problems import install
from softprompt.serving.observing import CacheUse, Observer, Step


def read(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Every sample by its name and its labels' values, in the order of the labels' names."""
    families = text_string_to_metric_families(metrics.text().decode())
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def answer(metrics: Metrics, name: str, tokens: int = 3) -> None:
    metrics.queued(name, 20)
    metrics.started(name, 0.002)
    metrics.first_token(name, 0.03)
    for _ in range(tokens - 1):
        metrics.token_gap(name, 0.02)
    metrics.ended(name, "stop", 0.1, tokens)


@pytest.fixture
def metrics():
    return Metrics("tiny", labels=2)


def test_it_hears_all_that_an_engine_tells(metrics):
    assert isinstance(metrics, Observer)


def test_a_prompt_s_requests_stand_under_vllm_s_names(metrics):
    answer(metrics, "mood")
    answer(metrics, "mood")
    metrics.ended("mood", "read", 0.2, 0)
    found = read(metrics)
    assert found["vllm:prompt_tokens_total", "mood"] == 40
    assert found["vllm:generation_tokens_total", "mood"] == 6
    assert found["vllm:time_to_first_token_seconds_count", "mood"] == 2
    assert found["vllm:inter_token_latency_seconds_sum", "mood"] == pytest.approx(0.08)
    assert found["vllm:e2e_request_latency_seconds_count", "mood"] == 3
    assert found["vllm:e2e_request_latency_seconds_sum", "mood"] == pytest.approx(0.4)
    assert found["vllm:request_queue_time_seconds_count", "mood"] == 2
    assert found["vllm:request_success_total", "stop", "mood"] == 2
    assert found["vllm:request_success_total", "read", "mood"] == 1


def test_what_was_not_answered_is_counted_apart(metrics):
    metrics.refused("mood")
    for outcome in ("cancelled", "deadline", "failed", "closed"):
        metrics.ended("mood", outcome, 0.1, 2)
    found = read(metrics)
    assert found["softprompt:requests_unanswered_total", "deadline"] == 1
    assert found["softprompt:requests_refused_total", "mood"] == 1
    assert found["vllm:generation_tokens_total", "mood"] == 8
    assert found["vllm:e2e_request_latency_seconds_count", "mood"] == 0


def test_a_turn_that_ran_nothing_sets_what_is_left_and_measures_nothing(metrics):
    metrics.step(Step(0.05, read=0, begun=3, written=3, prompts=1, tokens=9, slots=40, running=3, waiting=2))
    metrics.step(Step(0.05, read=0, begun=0, written=0, prompts=0, tokens=0, slots=0, running=0, waiting=0))
    found = read(metrics)
    assert found["vllm:num_requests_running", "tiny"] == found["vllm:num_requests_waiting", "tiny"] == 0
    assert found["softprompt:cache_slots",] == 0
    assert found["softprompt:step_seconds_count",] == found["softprompt:step_rows_count",] == 1


def test_turns_and_the_cache_are_the_backbone_s(metrics):
    metrics.step(Step(0.05, read=2, begun=3, written=5, prompts=4, tokens=60, slots=400, running=5, waiting=7))
    metrics.cache(CacheUse(hits=1, misses=2, bytes=4096, prompts=2))
    metrics.cache(CacheUse(hits=5, misses=3, bytes=8192, prompts=3))
    found = read(metrics)
    assert found["vllm:num_requests_running", "tiny"] == 5
    assert found["vllm:num_requests_waiting", "tiny"] == 7
    assert found["vllm:prefix_cache_hits_total", "tiny"] == 5
    assert found["vllm:prefix_cache_queries_total", "tiny"] == 8
    assert (found["softprompt:cache_bytes",], found["softprompt:cache_prompts",]) == (8192, 3)
    assert found["softprompt:step_rows_sum",] == 7
    assert found["softprompt:step_prompts_sum",] == 4
    assert found["softprompt:step_tokens_total",] == 60
    assert found["softprompt:cache_slots",] == 400
    assert any(key[0] == "softprompt:build_info" and "tiny" in key for key in found)
    assert any(key[0] == "process_resident_memory_bytes" for key in found)


def test_names_beyond_the_busiest_share_a_label(metrics):
    for name in ("a", "b", "c", "d"):
        answer(metrics, name)
    found = read(metrics)
    assert {key[1] for key in found if key[0] == "vllm:prompt_tokens_total"} == {"a", "b", OTHER}
    assert found["vllm:prompt_tokens_total", OTHER] == 40


def test_a_prompt_that_becomes_busy_takes_the_place_of_one_that_is_not(metrics):
    for name in ("a", "b"):
        answer(metrics, name)
    for _ in range(20):
        answer(metrics, "b")
        answer(metrics, "hot")
    found = read(metrics)
    assert {key[1] for key in found if key[0] == "vllm:prompt_tokens_total"} == {"b", "hot", OTHER}
    assert {key[2] for key in found if key[0] == "vllm:request_success_total"} == {"b", "hot", OTHER}


def test_ten_thousand_prompts_take_no_more_series_than_ten():
    metrics, rng = Metrics("tiny", labels=5), random.Random(0)
    for i in range(50):
        answer(metrics, f"prompt-{i % 10}")
    before = len(read(metrics))
    for _ in range(20_000):
        metrics.queued(f"prompt-{rng.randrange(10_000)}", 1)
        metrics.ended(f"prompt-{rng.randrange(10_000)}", "read", 0.01, 0)
    assert len(read(metrics)) <= before + 6  # outcomes that were not seen before, at most
    assert len(metrics._series) <= 6
    assert len(metrics._busiest._others) <= CANDIDATES * 5


def test_two_threads_leave_no_series_of_a_name_that_lost_its_place():
    metrics = Metrics("tiny", labels=1)

    def use(names):
        for name in names:
            metrics.queued(name, 1)
            metrics.token_gap(name, 0.01)

    threads = [Thread(target=use, args=([f"{n}-{i // 40}" for i in range(2000)],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({key[1] for key in read(metrics) if key[0] == "vllm:prompt_tokens_total"}) <= 2


def test_the_busiest_are_found_among_very_many_and_old_fame_fades():
    lost, rng = [], random.Random(1)
    busiest = Busiest(3, lost.append)
    hot = ("a", "b", "c")
    for _ in range(30_000):
        busiest.use(rng.choice(hot) if rng.random() < 0.3 else f"cold-{rng.randrange(10_000)}")
    assert all(map(busiest.stands_out, hot))
    for _ in range(4 * AGING):
        busiest.use(rng.choice(("x", "y", "z")))
    assert all(map(busiest.stands_out, "xyz"))
    assert set(hot) <= set(lost)


def test_no_label_at_all_is_allowed():
    metrics = Metrics("tiny", labels=0)
    answer(metrics, "mood")
    assert {key[1] for key in read(metrics) if key[0] == "vllm:prompt_tokens_total"} == {OTHER}


def test_the_page_is_for_those_who_may_watch(metrics):
    app = FastAPI()
    app.state.metrics = metrics
    install(app)
    app.include_router(measuring.router)
    client = TestClient(Counted(app, metrics))
    app.dependency_overrides[caller] = lambda: Caller(Key("prometheus", "", watch=True))
    got = client.get("/metrics")
    assert got.headers["content-type"].startswith("text/plain; version=")
    assert "vllm:num_requests_running" in got.text
    app.dependency_overrides[caller] = lambda: Caller(Key("helpdesk", ""))
    assert client.get("/metrics").status_code == 403
    assert client.request("BREW", "/nowhere").status_code == 404
    found = read(metrics)
    assert found["softprompt:http_responses_total", "GET", "200"] == 1
    assert found["softprompt:http_responses_total", "GET", "403"] == 1
    assert found["softprompt:http_responses_total", OTHER, "404"] == 1


def test_what_is_no_request_is_passed_on(metrics):
    heard = []

    async def app(scope, receive, send):
        await send({"type": "lifespan.startup.complete"})

    async def send(message):
        heard.append(message["type"])

    asyncio.run(Counted(app, metrics)({"type": "lifespan"}, None, send))
    assert heard == ["lifespan.startup.complete"]

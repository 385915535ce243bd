"""The benchmarks of serving run in their tiny forms, and what they conclude from measurements is right."""

import importlib
import threading
from collections import Counter

import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_serving_measures_everything_it_promises(tiny):
    pytest.importorskip("peft")
    figures, page = tiny("serving")
    assert set(figures) == {"mixed", "classification", "decoding-20", "decoding-100", "peft", "store"}
    assert figures["mixed"]["company"]["both at once, many prompts"]["prompts"] > 2
    assert {len(seconds) for seconds in figures["mixed"]["seconds"].values()} == {2}
    assert set(figures["peft"]["generation"]["seconds"]) >= {"softprompt", "PEFT, set_adapter"}
    assert figures["store"]["prompts"] == 100
    for aim in ("(≥ 0.95)", "(≥ 10)", "(≥ 5)", "< 2 s", "< 100 MB", "< 2×"):
        assert aim in page
    assert "## Missing" not in page


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_serving_leaves_out_what_begins_too_late(tiny):
    figures, page = tiny("serving", "--minutes", "0.001")
    assert list(figures) == ["mixed"]
    assert "## Missing" in page
    assert "| store |" in page


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_is_lost_and_nothing_is_wrong_over_http(tiny):
    figures, page = tiny("http")
    assert [each["http"]["lost"] for each in figures["rounds"]] == [[]]
    assert figures["check"] == figures["check"] | {"sent": 32, "lost": 0, "compared": 32, "wrong": 0}
    assert "(≥ 0.85)" in page
    assert "p99" in page


@pytest.fixture
def module():
    return importlib.import_module


def test_memory_grows_by_the_slope_after_the_warm_up(module):
    growth = module("serving_watch").growth
    steep, flat = [(at, 100.0 + at) for at in range(30)], [(at, 160.0) for at in range(30, 91)]
    assert growth([*steep, *flat])["growth"] == pytest.approx(0.0)
    leaking = growth([(at, 100.0 + 0.5 * at) for at in range(91)])
    assert leaking["growth"] == pytest.approx(30 / 130, rel=1e-3)
    assert leaking["slope"] == pytest.approx(1800.0)


def test_counters_must_lie_between_what_was_read_and_what_was_missed(module):
    watch, traffic = module("serving_watch"), module("serving_traffic")
    tally = traffic.Tally(statuses=Counter({"POST 200": 5, "POST 413": 1}), answered=5, uncertain=2, left=1)

    def broken(answered, read, large=1):
        counters = {
            'vllm:request_success_total{model_name="a",finished_reason="stop"}': answered,
            'vllm:e2e_request_latency_seconds_count{model_name="a"}': answered,
            'softprompt:http_responses_total{method="POST",status="200"}': read,
            'softprompt:http_responses_total{method="POST",status="413"}': large,
        }
        return [check["what"] for check in watch.consistency(tally, {}, counters) if not check["holds"]]

    assert broken(5, 5) == broken(7, 6) == []
    assert broken(4, 5) == broken(8, 5) == ["rows answered"]
    assert broken(5, 4) == broken(5, 7) == ["POST answered with 200"]
    assert broken(5, 5, large=2) == ["POST answered with 413"]


def test_answers_are_right_only_where_they_are_the_same(module):
    distance = module("serving_questions").distance
    right = {"label": "good", "probabilities": {"good": 0.7, "bad": 0.3}}
    assert distance({"label": "good", "probabilities": {"good": 0.69, "bad": 0.31}}, right) == pytest.approx(0.01)
    assert distance({"label": "bad", "probabilities": {"good": 0.7, "bad": 0.3}}, right) == float("inf")
    assert distance({"text": "a b", "tokens": 3}, {"text": "a b", "tokens": 3}) == 0
    assert distance({"text": "a b", "tokens": 2}, {"text": "a b", "tokens": 3}) == float("inf")


def test_lost_and_wrong_answers_are_counted(module):
    compared = module("serving_load").compared
    right = [{"text": "one", "tokens": 1}, {"text": "two", "tokens": 1}]
    found = [
        {"status": 200, "answer": {"text": "one", "tokens": 1}},
        {"status": 200, "answer": {"text": "to", "tokens": 1}},
        {"status": 0, "error": "reset"},
    ]
    assert compared(found, ["first", "second"], right) == {
        "sent": 3, "lost": 1, "compared": 2, "wrong": 1, "farthest": 0.0
    }  # fmt: skip


def test_clients_of_a_closed_loop_wait_for_their_answers_and_all_work_is_done(module):
    closed_loop, busy, most = module("serving_clients").closed_loop, [], []
    lock = threading.Lock()

    def answer(piece):
        with lock:
            busy.append(piece)
            most.append(len(busy))
        threading.Event().wait(0.002)
        with lock:
            busy.remove(piece)
        return piece * 2

    assert closed_loop(4, range(40), answer) == [2 * piece for piece in range(40)]
    assert 1 < max(most) <= 4

    def fail(piece):
        raise ValueError(f"no {piece}")

    with pytest.raises(ValueError, match="no 0"):
        closed_loop(1, range(3), fail)


def test_quantiles_are_values_of_the_sample(module):
    quantile = module("serving_http").quantile
    sample = [float(value) for value in range(1, 101)]
    assert [quantile(sample, share) for share in (0.5, 0.99, 1.0)] == [50.0, 99.0, 100.0]
    assert quantile([3.0], 0.5) == 3.0

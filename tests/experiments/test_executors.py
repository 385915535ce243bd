"""Executors: cells at once, what follows waits, all end with the comparison; and Ray, as a stand-in and as itself."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from softprompt.errors import ConfigError, MissingExtraError, UnknownNameError
from softprompt.experiments.compare.cells import Ask, name_of
from softprompt.experiments.compare.executors import LocalExecutor, RayExecutor, executor
from softprompt.experiments.compare.outcomes import CompareCell

COMMAND = (sys.executable, str(Path(__file__).with_name("pretend_cell.py")))


def asks(folder, *methods):
    cells = [CompareCell("toy", method, "", 0, "main") for method in methods]
    return [Ask(cell, "toy.csv", "tiny", str(folder / "work" / name_of(cell)), origin={"rows": 3}) for cell in cells]


class Hand:
    """Gives asks out, some only when another has ended, and remembers what ran together."""

    def __init__(self, given, needs=0):
        self.given, self.needs, self.ended = list(given), needs, []

    def take(self):
        waits = len(self.given) == 1 and len(self.ended) < self.needs
        return None if waits or not self.given else self.given.pop(0)

    def run(self, how):
        for outcome in how.run(self.take):
            self.ended.append(outcome)
        return self.ended


def test_cells_run_at_once_and_one_that_follows_waits(tmp_path, monkeypatch):
    monkeypatch.setenv("PRETEND_SECONDS", "0.4")
    hand = Hand(asks(tmp_path, "a", "b", "c"), needs=2)
    began = time.monotonic()
    found = hand.run(LocalExecutor(2, COMMAND))
    assert {outcome.cell.method for outcome in found[:2]} == {"a", "b"}
    assert (found[2].cell.method, len(found)) == ("c", 3)
    assert min(outcome.seconds for outcome in found) >= 0.4
    assert time.monotonic() - began < sum(outcome.seconds for outcome in found)


def test_cells_that_run_end_with_the_comparison(tmp_path, monkeypatch):
    monkeypatch.setenv("PRETEND_SECONDS", "60")
    how, hand = LocalExecutor(2, COMMAND), Hand(asks(tmp_path, "a", "b"))

    def stopped(*given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("softprompt.experiments.compare.executors.wait", stopped)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        hand.run(how)
    assert (how._processes, time.monotonic() - began < 30) == ({}, True)


def test_an_outcome_that_was_not_written_is_a_failure(tmp_path):
    code = (
        "from softprompt.experiments.compare.own_process import answer_one\nanswer_one(lambda asked: {'written': True})"
    )
    (found,) = Hand(asks(tmp_path, "a")).run(LocalExecutor(1, (sys.executable, "-c", code)))
    assert (found.failed, found.again) == ("its process left no outcome in `outcome.json`", True)


@pytest.mark.parametrize(
    ("name", "jobs", "kind", "text"),
    [("rai", 1, UnknownNameError, "unknown executor `rai`; did you mean `ray`"), ("local", 0, ConfigError, "0 jobs")],
)
def test_what_there_is_none_of(name, jobs, kind, text):
    with pytest.raises(kind, match=text):
        executor(name, jobs)


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r'`ray` needs Ray, .* pip install "softprompt\[ray\]"'):
        executor("ray")


class StandIn:
    """As much of Ray as is used, in this process."""

    class LostError(Exception):
        pass

    def __init__(self, lost=()):
        self.exceptions, self.lost = SimpleNamespace(RayError=self.LostError), lost
        self.running, self.told = {}, []

    def is_initialized(self):
        return "init" in self.told

    def init(self, **how):
        self.told.append("init")

    def shutdown(self):
        self.told.append("shutdown")

    def remote(self, max_retries):
        def decorate(function):
            def begin(*given):
                self.running[len(self.running)] = (function, given)
                return len(self.running) - 1

            return SimpleNamespace(remote=begin)

        return decorate

    def wait(self, references, num_returns):
        return references[:num_returns], references[num_returns:]

    def get(self, reference):
        function, given = self.running[reference]
        if given[0]["cell"]["method"] in self.lost:
            raise self.LostError("the node\nis gone")
        return function(*given)

    def cancel(self, reference, force):
        self.told.append(f"cancel {reference}")


def test_tasks_on_ray_as_far_as_it_is_used(tmp_path, monkeypatch):
    ray = StandIn(lost=["b"])
    monkeypatch.setitem(sys.modules, "ray", ray)
    found = Hand(asks(tmp_path, "a", "b")).run(executor("ray", 2, COMMAND))
    assert [(outcome.cell.method, outcome.failed, outcome.again) for outcome in found] == [
        ("a", None, False), ("b", "its Ray task was lost: the node is gone", True),
    ]  # fmt: skip
    assert ray.told == ["init", "shutdown"]


def test_tasks_on_ray_end_with_the_comparison(tmp_path, monkeypatch):
    ray = StandIn()
    ray.told.append("init")  # a cluster that was there before, and stays

    def stopped(*given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(ray, "wait", stopped)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(KeyboardInterrupt):
        Hand(asks(tmp_path, "a", "b")).run(RayExecutor(2, COMMAND))
    assert ray.told == ["init", "cancel 0", "cancel 1"]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_two_cells_on_ray_itself(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
    try:
        found = Hand(asks(tmp_path, "a", "b")).run(executor("ray", 2, COMMAND))
    finally:
        ray.shutdown()
    assert {(outcome.cell.method, outcome.failed) for outcome in found} == {("a", None), ("b", None)}
    assert [len(outcome.predicted) for outcome in found] == [10, 10]


def test_an_ask_travels_as_json(tmp_path):
    (ask,) = asks(tmp_path, "a")
    noted = replace(ask, notes=("mind",), seconds=3.0, options={"text": ["a"]})
    assert Ask.of(noted.to_json()) == noted

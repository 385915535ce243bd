"""What HTTP costs: 64 clients of `softprompt serve` beside as many threads of the engine; and are the answers right?"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from child import call
from results import Result, Table
from serving_load import compared
from serving_questions import read, saved
from serving_server import Server, loadable
from subjects import Setting

CLIENTS, PROMPTS = 64, 16
SHARE_AIM = 0.85

PROCEDURE = """`softprompt serve` with its default settings on 127.0.0.1 and 64 clients in a process of their own, each
with a connection of its own, each of which asks when it was answered; beside it, 64 threads that ask an engine alike,
in a process without a server. The two take turns, on the same requests; the first 128 of each turn warm up and come
again. Half of the requests are classifications of one row, half are texts of up to 32 tokens; 16 prompts of 12 to 27
virtual tokens, every fourth in the form of keys and values. The share is the median of the shares of the rounds; times
are those of requests as the clients see them.

In a second run the weights are fp32, and each answer over HTTP is compared with the answer that the same row has in a
pass of its own, without server and engine: texts and numbers of tokens must be the same, and probabilities equal to
1e-4."""


def serving_http(setting: Setting) -> Result:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        chosen = replace(setting, backbone=loadable(setting, Path(place)))
        folder, count = Path(place, "store"), setting.pick(PROMPTS, 4)
        asked = call("serving_questions", "prepare", store=str(folder), prompts=count, **chosen.plain())
        questions = saved(Path(place, "questions.json"), asked)
        until = None if setting.minutes is None else began + 60 * setting.minutes
        found = {"rounds": _rounds(chosen, folder, questions, until), "check": _check(chosen, folder, questions)}
    tables = [_throughput(found["rounds"]), _latency(found["rounds"]), _answers(found)]
    return Result("http", "The server beside its engine", PROCEDURE, tables, found, setting.files("sst2"))


def _rounds(setting: Setting, store: Path, questions: str, until: float | None) -> list[dict[str, Any]]:
    """The server and the engine, by turns; at least one round."""
    clients = setting.pick(CLIENTS, 8)
    work = {"questions": questions, "clients": clients, "count": setting.pick(6, 2) * clients}
    rounds: list[dict[str, Any]] = []
    with Server(setting.backbone, setting.dtype, store) as server:
        while len(rounds) < setting.pick(3, 1) and (not rounds or until is None or time.monotonic() < until):
            served = call("serving_load", "over_http", port=server.port, **work)
            alone = call("serving_load", "by_engine", store=str(store), **setting.plain(**work))
            rounds.append({"http": _seen(served), "engine": alone})
    return rounds


def _seen(served: Mapping[str, Any]) -> dict[str, Any]:
    """What one turn of the clients saw, without the answers."""
    good = [each for each in served["found"] if each["status"] == 200]
    times = {
        kind: [each["seconds"] for each in good if ("text" in each["answer"]) == (kind == "text")]
        for kind in ("label", "text")
    }
    tokens = sum(each["answer"].get("tokens", 0) for each in good)
    lost = [each for each in served["found"] if each["status"] != 200]
    return {
        "seconds": served["seconds"],
        "tokens": tokens,
        "requests": len(served["found"]),
        "times": times,
        "lost": lost,
    }


def _check(setting: Setting, store: Path, questions: str) -> dict[str, Any]:
    """Every answer of an fp32 server beside the one that its row has alone."""
    clients, exact = setting.pick(CLIENTS, 8), replace(setting, dtype="fp32")
    asked = read(questions)
    plain = [vars(question) for question in asked]
    right = call("serving_questions", "one_by_one", store=str(store), asked=plain, **exact.plain())
    with Server(setting.backbone, "fp32", store) as server:
        count = setting.pick(4, 2) * max(clients, len(asked))
        served = call("serving_load", "over_http", port=server.port, questions=questions, clients=clients, count=count)
    return compared(served["found"], asked, right)


Rounds = Sequence[Mapping[str, Any]]


def _throughput(rounds: Rounds) -> Table:
    columns = ["", "requests/s", "tokens/s", "share of the engine's rate (aim)"]
    table = Table(f"{CLIENTS} clients", columns)
    count = rounds[0]["http"]["requests"]
    for side, name in (("http", "over HTTP"), ("engine", "engine alone")):
        rate = statistics.median(count / each[side]["seconds"] for each in rounds)
        tokens = statistics.median(each[side]["tokens"] / each[side]["seconds"] for each in rounds)
        share = statistics.median(each["engine"]["seconds"] / each["http"]["seconds"] for each in rounds)
        told = f"**{share:.3f}** (≥ {SHARE_AIM})" if side == "http" else ""
        table.rows.append([name, f"{rate:.1f}", f"{tokens:.0f}", told])
    return table


def _latency(rounds: Rounds) -> Table:
    table = Table("Seconds until an answer is complete", ["answer", "requests", "p50", "p99", "longest"])
    for kind, name in (("label", "classification"), ("text", "text of up to 32 tokens")):
        times = sorted(seconds for each in rounds for seconds in each["http"]["times"][kind])
        cells = [f"{quantile(times, share):.3f}" for share in (0.5, 0.99, 1.0)]
        table.rows.append([name, str(len(times)), *cells])
    return table


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that this share of an ordered sample is no larger than."""
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)] if ordered else float("nan")


def _answers(found: Mapping[str, Any]) -> Table:
    table = Table(
        "Lost and wrong", ["run", "requests", "lost (aim)", "compared", "wrong (aim)", "farthest probability"]
    )
    sent = sum(each["http"]["requests"] for each in found["rounds"])
    lost = sum(len(each["http"]["lost"]) for each in found["rounds"])
    table.rows.append(["throughput", str(sent), f"**{lost}** (0)", "", "", ""])
    own = found["check"]
    cells = [str(own["sent"]), f"**{own['lost']}** (0)", str(own["compared"]), f"**{own['wrong']}** (0)"]
    table.rows.append(["fp32, each answer compared", *cells, f"{own['farthest']:.1e}"])
    return table

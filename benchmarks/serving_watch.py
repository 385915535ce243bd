"""What a server under load shows from outside: its memory second by second, and its counters before and after."""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from serving_server import resident
from serving_traffic import GONE, Scene, Tally
from serving_wire import Wire

EVERY = 1.0
WARM = 1 / 3
"""The share of the load, at most ten minutes of it, after which memory is to be flat."""
_LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(\{[^}]*\})? (\S+)$")
LEFT_WITH = ("POST 200", "POST 400", "POST 429")
"""What clients may have been answered that had left."""
Counters = Mapping[str, float]


async def watch(scene: Scene, pid: int, memory: list[tuple[float, float]]) -> None:
    """Note the resident memory each second, and see that the server calls itself alive and ready."""
    wire, began = Wire(scene.port), time.monotonic()
    while not scene.over:
        memory.append((time.monotonic() - began, resident(pid)))
        for path in ("/healthz", "/readyz"):
            try:
                reply = scene.tally.saw("GET", await wire.ask("GET", path))
                if reply.status != 200:
                    scene.tally.problem("not ready", f"{path}: {reply.status} {reply.data[:300]!r}")
            except GONE as error:
                scene.tally.problem("broken connections", repr(error))
                wire.leave()
        await scene.pause(EVERY, EVERY)
    wire.leave()


async def scrape(scene: Scene) -> dict[str, float]:
    """Read `/metrics`: every series by its name and labels."""
    wire = Wire(scene.port)
    reply = scene.tally.saw("GET", await wire.ask("GET", "/metrics"))
    wire.leave()
    lines = (_LINE.match(line) for line in reply.data.decode().splitlines())
    return {f"{found[1]}{found[2] or ''}": float(found[3]) for found in lines if found}


async def calm(scene: Scene, seconds: float = 60.0) -> dict[str, float]:
    """Wait until nothing is in flight and nothing waits; return the counters."""
    until = time.monotonic() + seconds
    while True:
        found = await scrape(scene)
        busy = total(found, "vllm:num_requests_running") + total(found, "vllm:num_requests_waiting")
        if not busy or time.monotonic() > until:
            return found
        await asyncio.sleep(0.5)


def total(counters: Counters, name: str, label: str = "") -> float:
    """The sum of all series of a name, of those alone that have the label."""
    return sum(value for series, value in counters.items() if series.partition("{")[0] == name and label in series)


def consistency(tally: Tally, before: Counters, after: Counters) -> list[dict[str, Any]]:
    """Each thing that the server counts beside what its clients counted: within what they could not see."""

    def more(name: str, label: str = "") -> float:
        return total(after, name, label) - total(before, name, label)

    answered, broken = more("vllm:request_success_total"), tally.events["broken connections"]
    checks = [
        ("rows in flight at the end", total(after, "vllm:num_requests_running"), 0, 0),
        ("rows that wait at the end", total(after, "vllm:num_requests_waiting"), 0, 0),
        ("rows answered", answered, tally.answered, tally.answered + tally.uncertain),
        ("rows timed", more("vllm:e2e_request_latency_seconds_count"), answered, answered),
    ]
    for key, count in sorted(tally.statuses.items()):
        method, status = key.split()
        told = more("softprompt:http_responses_total", f'method="{method}",status="{status}"')
        unseen = tally.left if key in LEFT_WITH else broken
        last = 1 if key == "GET 200" else 0  # the scrape itself
        checks.append((f"{method} answered with {status}", told, count - last, count - last + unseen))
    return [
        {"what": what, "server": found, "least": least, "most": most, "holds": least <= found <= most}
        for what, found, least, most in checks
    ]


def growth(memory: Sequence[tuple[float, float]]) -> dict[str, float]:
    """How much memory grew after the warm-up, by the slope of a line through the samples, as a share of its mean."""
    warm = min(600.0, WARM * memory[-1][0])
    late = [(at, size) for at, size in memory if at >= warm]
    slope = statistics.linear_regression(*zip(*late, strict=True)).slope
    mean, seconds = statistics.mean(size for _, size in late), late[-1][0] - late[0][0]
    return {"warm up": warm, "mean": mean, "growth": slope * seconds / mean, "slope": slope * 3600}

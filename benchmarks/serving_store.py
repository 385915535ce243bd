"""Ten thousand prompts in a store: until the server is ready, what idle prompts take, and a prompt's first request."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from child import call
from serving_prompts import Forms
from serving_server import Server, loadable
from serving_wire import Wire
from subjects import Setting, backbone_of, task_of

from softprompt.prompts.initializers import from_random
from softprompt.store.store import PromptStore

LENGTH = 20


def fill(store: str, count: int, **setting: Any) -> dict[str, float]:
    """Put prompts of 20 random rows; nothing is forced to the disk one by one, which the store would else do."""
    chosen = Setting(**setting)
    forms, shelf = Forms(backbone_of(chosen), task_of(chosen)), PromptStore(store)
    os.fsync = lambda _: None
    began, size, chance = time.perf_counter(), 0, torch.Generator().manual_seed(0)
    for number in range(count):
        prompt = forms.classifier(from_random(forms.backbone, LENGTH, chance).rows)
        size = len(prompt.to_bytes())
        shelf.put(prompt, name_of(number))
    return {"seconds": time.perf_counter() - began, "bytes each": size}


def name_of(number: int) -> str:
    return f"prompt-{number:05d}"


def many(count: int, starts: int, cold: int, **plain: Any) -> dict[str, Any]:
    """Fill a store and serve it; beside it, one that holds a single prompt."""
    setting = Setting(**plain)
    with tempfile.TemporaryDirectory() as place:
        backbone, stores = loadable(setting, Path(place)), {"one": 1, "many": count}
        loaded = setting.plain(backbone=backbone)
        found: dict[str, Any] = {"prompts": count}
        for name, number in stores.items():
            found[f"filled {name}"] = call(
                "serving_store", "fill", store=str(Path(place, name)), count=number, **loaded
            )
        for name in ("one", *["many"] * starts):
            with Server(backbone, setting.dtype, Path(place, name)) as server:
                text = "a quiet film about the sea"
                seen = asyncio.run(_look(server, cold if name == "many" else 0, count, text))
                found.setdefault(name, []).append({"ready after": server.ready_after, **seen})
    return found


async def _look(server: Server, cold: int, count: int, text: str) -> dict[str, Any]:
    """Memory after a list of all names and one request; and first requests beside second ones, turn by turn."""
    wire = Wire(server.port)
    await wire.ask("GET", "/v1/models")
    for _ in range(5):  # the first request of all is nobody's figure
        await _asked(wire, name_of(0), text)
    seen: dict[str, Any] = {"memory": server.memory(), "cold": [], "warm": []}
    for step in range(1, cold + 1):
        name = name_of(step * (count - 1) // cold)
        for kind in ("cold", "warm"):
            seen[kind].append(await _asked(wire, name, text))
    wire.leave()
    return seen


async def _asked(wire: Wire, name: str, text: str) -> float:
    began = time.perf_counter()
    reply = await wire.ask("POST", "/v1/classify", json.dumps({"model": name, "input": text}).encode())
    assert reply.status == 200, reply.data
    return time.perf_counter() - began


def medians(found: dict[str, Any]) -> dict[str, float]:
    """Of all starts: seconds until ready, MiB more than with one prompt, and seconds of first and second requests."""
    runs = found["many"]
    spent = {kind: statistics.median(s for run in runs for s in run[kind]) for kind in ("cold", "warm")}
    idle = statistics.median(run["memory"] for run in runs) - found["one"][0]["memory"]
    return {"ready": statistics.median(run["ready after"] for run in runs), "idle": idle, **spent}

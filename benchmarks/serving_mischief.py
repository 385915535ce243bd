"""Clients that do what they should not: leave midway, send what is no request, or more than is taken."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import NamedTuple

from serving_questions import CLASSIFY, COMPLETE
from serving_server import HOST
from serving_traffic import GONE, Scene
from serving_wire import JSON, Wire

MAX_BODY, MAX_ROWS = 65_536, 32


class Bad(NamedTuple):
    """A request that is not in order, and the statuses that may answer it."""

    path: str
    body: bytes
    statuses: tuple[int, ...] = (400,)
    method: str = "POST"
    kind: str = JSON


async def leave(scene: Scene, wire: Wire) -> None:
    """Hang up: before the request is complete, before the answer, or in the middle of a stream."""
    way = scene.chance.choice((_half_a_request, _before_the_answer, _in_a_stream))
    await way(scene, wire)
    wire.leave()
    scene.tally.events["clients that left"] += 1
    await scene.pause(0.0, 0.2)


async def _half_a_request(scene: Scene, wire: Wire) -> None:
    question = scene.draw()
    body = question.body()
    scene.tally.left += 1
    await wire.send("POST", question.path, body[: len(body) // 2], length=len(body))
    await scene.pause(0.0, 0.1)


async def _before_the_answer(scene: Scene, wire: Wire) -> None:
    question = scene.draw()
    scene.tally.uncertain, scene.tally.left = scene.tally.uncertain + 1, scene.tally.left + 1
    await wire.send("POST", question.path, question.body())
    await scene.pause(0.0, 0.5)


async def _in_a_stream(scene: Scene, wire: Wire) -> None:
    question = scene.draw(reads=False)
    scene.tally.uncertain += 1
    reply = scene.tally.saw("POST", await wire.begin("POST", question.path, question.body(stream=True)))
    parts, wanted = wire.parts(reply), scene.chance.randint(0, 8)
    async for _ in parts:
        wanted -= 1
        if wanted < 0:
            break


async def misuse(scene: Scene, wire: Wire) -> None:
    """Send something that is no request in order; it must be refused with a status that says why."""
    bad = scene.chance.choice(_BAD)(scene)
    try:
        reply = scene.tally.saw(bad.method, await wire.ask(bad.method, bad.path, bad.body, bad.kind))
    finally:
        wire.leave()
    if reply.status in bad.statuses and b'"message"' in reply.data:
        scene.tally.events["malformed requests refused"] += 1
    elif reply.status == 429:
        scene.tally.events["refused: queue full"] += 1
    else:
        scene.tally.problem("malformed requests not refused", f"{bad} was answered {reply.status} {reply.data[:300]!r}")
    await scene.pause(0.0, 0.1)


async def oversize(scene: Scene, wire: Wire) -> None:
    """Send a body that is too large, told beforehand or not, or too many rows; 413, however much was sent."""
    way = scene.chance.randrange(3)
    model = scene.draw(reads=True).model
    if way == 0:
        body = json.dumps({"model": model, "input": "a " * MAX_BODY}).encode()
        await wire.send("POST", CLASSIFY, body)
    elif way == 1:
        await wire.write(_CHUNKED + b"".join(b"4000\r\n" + b"a" * 0x4000 + b"\r\n" for _ in range(8)))
    else:
        await wire.send("POST", CLASSIFY, json.dumps({"model": model, "input": ["a"] * (MAX_ROWS + 1)}).encode())
    try:
        reply = scene.tally.saw("POST", await wire.head())
    finally:
        wire.leave()
    if reply.status == 413:
        scene.tally.events["oversized requests refused"] += 1
    else:
        scene.tally.problem("oversized requests not refused", f"way {way} was answered {reply.status}")
    await scene.pause(0.05, 0.5)


async def garble(scene: Scene, wire: Wire) -> None:
    """Send what is not even HTTP; the connection may be closed, and nothing else may happen."""
    await wire.write(scene.chance.randbytes(scene.chance.randint(1, 300)) + b"\r\n\r\n")
    try:
        async with asyncio.timeout(2):
            await wire.head()
    except (*GONE, TimeoutError, ValueError, IndexError):
        pass  # either end is right
    wire.leave()
    scene.tally.events["connections without HTTP"] += 1
    await scene.pause(0.1, 1.0)


_CHUNKED = (
    f"POST {CLASSIFY} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {JSON}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
)


def _cut_short(scene: Scene) -> Bad:
    question = scene.draw()
    body = question.body()
    return Bad(question.path, body[: scene.chance.randrange(len(body))])


def _random_bytes(scene: Scene) -> Bad:
    return Bad(scene.draw().path, scene.chance.randbytes(scene.chance.randint(1, 500)))


def _unknown_field(scene: Scene) -> Bad:
    question = scene.draw()
    return Bad(question.path, question.body(temprature=1))


def _wrong_value(scene: Scene) -> Bad:
    values = ({"max_tokens": "5"}, {"n": 10_000}, {"temperature": -1}, {"top_p": 2}, {"stop": [""]}, {"logprobs": 99})
    return Bad(COMPLETE, scene.draw(reads=False).body(**scene.chance.choice(values)))


def _wrong_kind(scene: Scene) -> Bad:
    question = scene.draw()
    return Bad(question.path, question.body(), (415,), kind="text/plain")


def _unknown_model(scene: Scene) -> Bad:
    names = ("label-999", "label-0@v99", "label-0@nothing", "../secret", "sha256:00000000", "x" * 200)
    body = json.dumps({"model": scene.chance.choice(names), "input": "a"}).encode()
    return Bad(CLASSIFY, body, (400, 404))


def _wrong_endpoint(scene: Scene) -> Bad:
    body = json.dumps({"model": scene.draw(reads=False).model, "input": "a"}).encode()
    return Bad(CLASSIFY, body)


def _nested(scene: Scene) -> Bad:
    return Bad(scene.draw().path, b"[" * 20_000)


def _no_text(scene: Scene) -> Bad:
    return Bad(CLASSIFY, b'{"model": "label-0", "input": "\xff\xfe"}')


def _nowhere(scene: Scene) -> Bad:
    return scene.chance.choice((Bad("/v1/nothing", b"{}", (404,)), Bad(CLASSIFY, b"", (405,), "DELETE")))


def _bad_file(scene: Scene) -> Bad:
    return Bad("/v1/prompts/bad", scene.chance.randbytes(scene.chance.randint(0, 2000)), (400,), "PUT")


_BAD: tuple[Callable[[Scene], Bad], ...] = (
    _cut_short, _random_bytes, _unknown_field, _wrong_value, _wrong_kind, _unknown_model, _wrong_endpoint, _nested,
    _no_text, _nowhere, _bad_file,
)  # fmt: skip

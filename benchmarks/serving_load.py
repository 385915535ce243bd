"""The same requests in a closed loop: over HTTP from a process of its own, or given to an engine by threads."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from serving_clients import closed_loop
from serving_questions import NEAR, Question, answer_in, distance, read
from serving_wire import Wire

WARM = 2
"""Requests of each client that warm up, and are not counted."""


def over_http(port: int, questions: str, clients: int, count: int) -> dict[str, Any]:
    """Let clients, each on its own connection, send `count` of the questions; status, seconds and answer of each."""
    asked = _work(read(questions), count)
    warm = asked[: WARM * clients]
    return asyncio.run(_loop(port, warm, asked, clients))


def _work(questions: Sequence[Question], count: int) -> list[Question]:
    return [questions[number % len(questions)] for number in range(count)]


async def _loop(port: int, warm: Sequence[Question], asked: Sequence[Question], clients: int) -> dict[str, Any]:
    wires = [Wire(port) for _ in range(clients)]
    await _round(wires, warm)
    began = time.perf_counter()
    found = await _round(wires, asked)
    seconds = time.perf_counter() - began
    for wire in wires:
        wire.leave()
    return {"seconds": seconds, "found": found}


async def _round(wires: Sequence[Wire], asked: Sequence[Question]) -> list[dict[str, Any]]:
    left, found = deque(enumerate(asked)), [dict[str, Any]() for _ in asked]

    async def client(wire: Wire) -> None:
        while left:
            number, question = left.popleft()
            found[number] = await _answered(wire, question)

    await asyncio.gather(*(client(wire) for wire in wires))
    return found


async def _answered(wire: Wire, question: Question) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        reply = await wire.ask("POST", question.path, question.body())
    except (OSError, asyncio.IncompleteReadError) as error:
        wire.leave()
        return {"status": 0, "seconds": time.perf_counter() - began, "error": repr(error)}
    seconds = time.perf_counter() - began
    answer = answer_in(question, reply.json) if reply.status == 200 else None
    return {"status": reply.status, "seconds": seconds, "answer": answer}


def by_engine(store: str, questions: str, clients: int, count: int, **setting: Any) -> dict[str, float]:
    """Let as many threads ask an engine in this process the same; seconds, and tokens written."""
    from subjects import Setting, backbone_of

    from softprompt.serving.asking import Ask, Ended
    from softprompt.serving.engine import Engine
    from softprompt.store.store import PromptStore

    shelf, asked = PromptStore(store), _work(read(questions), count)
    prompts = {name: shelf.get(name) for name in {question.model for question in asked}}
    with Engine(backbone_of(Setting(**setting))) as engine:

        def answer(question: Question) -> Ended:
            prompt = prompts[question.model]
            return engine.submit(Ask(prompt, {prompt.template.fields[0]: question.text}, question.model)).result()

        closed_loop(clients, asked[: WARM * clients], answer)
        began = time.perf_counter()
        ended = closed_loop(clients, asked, answer)
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "tokens": sum(each.usage.completion_tokens for each in ended)}


def compared(
    found: Sequence[Mapping[str, Any]], questions: Sequence[Question], right: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """How many requests were lost, how many answers are wrong, and how far the farthest right one is off."""
    answered = [
        (number % len(questions), each["answer"]) for number, each in enumerate(found) if each.get("status") == 200
    ]
    gaps = [distance(answer, right[number]) for number, answer in answered]
    wrong = [number for number, gap in enumerate(gaps) if gap > NEAR]
    return {
        "sent": len(found), "lost": len(found) - len(answered), "compared": len(gaps), "wrong": len(wrong),
        "farthest": max((gap for gap in gaps if gap <= NEAR), default=0.0),
    }  # fmt: skip

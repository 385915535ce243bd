"""Traffic for a server over minutes: those who ask and are answered, and what they remember of it."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from serving_questions import CLASSIFY, NEAR, Answer, Question, answer_in, distance, label_in
from serving_wire import Reply, Wire, events

GONE = (OSError, asyncio.IncompleteReadError)
KEPT = 20
"""Problems that are told in full."""


@dataclass
class Tally:
    """What the clients have seen.

    Attributes:
        events: how often what happened.
        statuses: answers whose head was read, by method and status.
        problems: the first of those that should not have been.
        answered: rows whose answers were read to the end.
        uncertain: rows that may have been answered without anybody reading it: their client left or was refused.
        left: requests whose client left before it had read a status.
        farthest: the largest difference between a probability and the right one.
    """

    events: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    answered: int = 0
    uncertain: int = 0
    left: int = 0
    farthest: float = 0.0

    def saw(self, method: str, reply: Reply) -> Reply:
        self.statuses[f"{method} {reply.status}"] += 1
        return reply

    def problem(self, kind: str, story: str) -> None:
        self.events[kind] += 1
        if len(self.problems) < KEPT:
            self.problems.append(f"{kind}: {story}")


@dataclass
class Scene:
    """A server under load.

    Attributes:
        port: where it listens.
        until: when the load ends, on the clock of `time.monotonic`.
        questions: what is asked.
        right: the answer to each.
        tally: what was seen.
        chance: draws what is done next.
    """

    port: int
    until: float
    questions: Sequence[Question]
    right: Mapping[Question, Answer]
    tally: Tally = field(default_factory=Tally)
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.until

    def draw(self, reads: bool | None = None) -> Question:
        return self.chance.choice([each for each in self.questions if reads in (None, each.reads)])

    async def pause(self, least: float, most: float) -> None:
        left = max(0.0, self.until - time.monotonic())
        await asyncio.sleep(min(left, self.chance.uniform(least, most)))

    def check(self, question: Question, found: Answer, right: Answer | None = None) -> None:
        """Compare an answer with the right one."""
        self.tally.answered += 1
        gap = distance(found, right or self.right[question])
        if gap > NEAR:
            self.tally.problem("wrong answers", f"{question}: {found} is not {right or self.right[question]}")
        else:
            self.tally.events["right answers"] += 1
            self.tally.farthest = max(self.tally.farthest, gap)

    async def repeat(self, act: Callable[[Wire], Awaitable[None]]) -> None:
        """Do the same until the load ends; a connection that breaks although nobody meant it to is a problem."""
        wire = Wire(self.port)
        while not self.over:
            try:
                await act(wire)
            except GONE as error:
                self.tally.uncertain, self.tally.left = self.tally.uncertain + 1, self.tally.left + 1
                self.tally.problem("broken connections", repr(error))
                wire.leave()
        wire.leave()

    async def refused(self, wire: Wire, reply: Reply, rows: int) -> None:
        """Wait as the server says; nothing else than a full queue may refuse a request that is in order."""
        self.tally.uncertain += rows
        if reply.status == 429 and int(reply.headers.get("retry-after", 0)) >= 1:
            self.tally.events["refused: queue full"] += 1
        else:
            self.tally.problem("refused without need", f"{reply.status} {reply.data[:300]!r}")
        wire.leave()
        await self.pause(0.1, 1.0)


async def ask(scene: Scene, wire: Wire) -> None:
    """One row, one answer."""
    question = scene.draw()
    reply = scene.tally.saw("POST", await wire.ask("POST", question.path, question.body()))
    if reply.status != 200:
        await scene.refused(wire, reply, 1)
        return
    scene.check(question, answer_in(question, reply.json))


async def stream(scene: Scene, wire: Wire) -> None:
    """One text that comes in pieces."""
    question = scene.draw(reads=False)
    body = question.body(stream=True, stream_options={"include_usage": True})
    reply = scene.tally.saw("POST", await wire.begin("POST", question.path, body))
    if reply.status != 200:
        data = b"".join([part async for part in wire.parts(reply)])
        await scene.refused(wire, reply._replace(data=data), 1)
        return
    text, tokens = "", 0
    async for event in events(wire, reply):
        text += "".join(choice["text"] for choice in event.get("choices", ()))
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    scene.check(question, {"text": text, "tokens": tokens})


async def classify_many(scene: Scene, wire: Wire) -> None:
    """Several rows for several prompts in one request."""
    asked = [scene.draw(reads=True) for _ in range(scene.chance.randint(2, 12))]
    body = json.dumps({"requests": [{"model": each.model, "input": each.text} for each in asked]}).encode()
    reply = scene.tally.saw("POST", await wire.ask("POST", CLASSIFY, body))
    if reply.status != 200:
        await scene.refused(wire, reply, len(asked))
        return
    for question, row in zip(asked, reply.json["data"], strict=True):
        scene.check(question, label_in(row))


async def flood(scene: Scene, rows: int, requests: int) -> None:
    """More rows at once than may wait, every few seconds."""

    async def one() -> None:
        asked = [scene.draw(reads=True) for _ in range(rows)]
        body = json.dumps({"requests": [{"model": each.model, "input": each.text} for each in asked]}).encode()
        wire = Wire(scene.port)
        try:
            reply = scene.tally.saw("POST", await wire.ask("POST", CLASSIFY, body))
        except GONE as error:
            scene.tally.uncertain, scene.tally.left = scene.tally.uncertain + rows, scene.tally.left + 1
            scene.tally.problem("broken connections", repr(error))
            return
        finally:
            wire.leave()
        if reply.status != 200:
            await scene.refused(wire, reply, rows)
            return
        for question, row in zip(asked, reply.json["data"], strict=True):
            scene.check(question, label_in(row))

    while not scene.over:
        await asyncio.gather(*(one() for _ in range(requests)))
        await scene.pause(3.0, 6.0)


async def calmly(scene: Scene) -> None:
    """Ask every question once more, one after the other, when the load is over."""
    wire = Wire(scene.port)
    for question in scene.questions:
        with suppress(*GONE):
            reply = scene.tally.saw("POST", await wire.ask("POST", question.path, question.body()))
            if reply.status == 200:
                scene.tally.events["answers after the load"] += 1
                scene.check(question, answer_in(question, reply.json))
    wire.leave()

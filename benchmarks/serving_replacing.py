"""Prompts that are replaced while they are asked for: which version answered, was it right, and was it no old one."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

from serving_questions import CLASSIFY, REPLACED, Answer, Question, answer_in
from serving_traffic import GONE, Scene
from serving_wire import Wire

from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.store.store import PromptStore

SOON = 1.0
"""Seconds after which a new version must be the one that answers."""


class Replaced:
    """A name whose versions are two prompts by turns: the first at odd numbers.

    Args:
        scene: where it is asked for.
        store: the server's own store.
        name: the name.
        questions: those for its first two versions.
        right: their answers.
    """

    def __init__(
        self, scene: Scene, store: PromptStore, name: str, questions: Sequence[Question], right: Sequence[Answer]
    ) -> None:
        self._scene, self._store, self._name = scene, store, name
        self._files: list[SoftPrompt] = [store.get(f"{name}@v{version}") for version in (2, 1)]  # even, odd
        self._right: dict[str, dict[int, Answer]] = defaultdict(dict)
        for question, answer in zip(questions, right, strict=True):
            self._right[question.text][int(question.model[-1]) % 2] = answer
        self._landed = [(0.0, 2)]

    async def replace(self) -> None:
        """Put a new version every second or two, through the server or straight into the store, and move a tag."""
        wire = Wire(self._scene.port)
        while not self._scene.over:
            await self._scene.pause(0.7, 2.5)
            number = self._landed[-1][1]
            try:
                landed = await (self._upload if self._scene.chance.random() < 0.5 else self._put)(wire, number)
                await self._tag(wire, landed)
            except GONE as error:
                self._scene.tally.problem("broken connections", repr(error))
            wire.leave()

    async def _upload(self, wire: Wire, number: int) -> int:
        data = self._files[(number + 1) % 2].to_bytes()
        reply = await wire.ask("PUT", f"/v1/prompts/{self._name}?parent=v{number}", data)
        self._scene.tally.saw("PUT", reply)
        if reply.status != 201:
            self._scene.tally.problem("uploads refused", f"{reply.status} {reply.data[:300]!r}")
            return number
        return self._note(reply.json["number"])

    async def _put(self, _: Wire, number: int) -> int:
        version = await asyncio.to_thread(self._store.put, self._files[(number + 1) % 2], self._name)
        return self._note(version.number)

    def _note(self, number: int) -> int:
        self._scene.tally.events["prompts replaced"] += 1
        self._landed.append((time.monotonic(), number))
        return number

    async def _tag(self, wire: Wire, number: int) -> None:
        """Let a tag stand on this version, or on one before it; and let go of what is kept of it."""
        tagged = number - self._scene.chance.randint(0, 1)
        for method, path in (("PUT", f"@v{tagged}/tags/live"), ("POST", "/unload")):
            reply = await wire.ask(method, f"/v1/prompts/{self._name}{path}")
            self._scene.tally.saw(method, reply)
            if reply.status >= 400:
                self._scene.tally.problem("tags refused", f"{path}: {reply.status} {reply.data[:300]!r}")

    async def ask(self, _: Scene, wire: Wire) -> None:
        """Ask the name, or its tag, and compare with the answer of the version that answered."""
        began, text = time.monotonic(), self._scene.chance.choice([*self._right])
        tagged = self._scene.chance.random() < 0.2 and len(self._landed) > 1
        model = f"{self._name}@live" if tagged else self._name
        question = Question(model, text, REPLACED[self._name])
        reply = self._scene.tally.saw("POST", await wire.ask("POST", question.path, question.body()))
        if reply.status != 200:
            if not (tagged and reply.status == 404 and len(self._landed) < 4):  # before the tag was first put
                await self._scene.refused(wire, reply, 1)
            return
        answered = reply.json["data"][0]["model"] if question.path == CLASSIFY else reply.json["model"]
        version = int(answered.rpartition("@v")[2])
        self._scene.check(question, answer_in(question, reply.json), self._right[text][version % 2])
        least = self._latest(began - SOON)
        if not tagged and version < least:
            self._scene.tally.problem(
                "old versions", f"{answered}, {self._latest(began - SOON)} was there {SOON} s ago"
            )

    def _latest(self, at: float) -> int:
        """The latest version that had landed by then."""
        return next(number for landed, number in reversed(self._landed) if landed <= at)


def replaced_of(scene: Scene, store: PromptStore, answers: Mapping[Question, Answer]) -> list[Replaced]:
    """The names that are replaced, from the questions that name a version."""
    found = []
    for name in REPLACED:
        own = [question for question in answers if question.model.startswith(f"{name}@")]
        found.append(Replaced(scene, store, name, own, [answers[question] for question in own]))
    return found

"""What an observer hears, and that it can do no harm."""

from __future__ import annotations

import threading
import time

import pytest

from softprompt.errors import DeadlineError, EngineClosedError, QueueFullError, RequestCancelledError
from softprompt.serving.asking import Ask
from softprompt.serving.engine import Engine
from softprompt.serving.observing import CacheUse, Harmless, Observer, Step, Unobserved

FILM = {"text": "a gripping film"}


class Notes:
    """Writes down everything it hears, and in which thread."""

    def __init__(self):
        self.heard, self.threads = [], set()

    def __getattr__(self, name):
        def hear(*what):
            self.heard.append((name, *what))
            self.threads.add((name, threading.current_thread().name))

        return hear

    def of(self, name):
        return [each[1:] for each in self.heard if each[0] == name]


def until(what, seconds=10.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"it did not happen within {seconds:g} s"
        time.sleep(0.005)


def test_all_are_observers():
    assert isinstance(Unobserved(), Observer)
    assert isinstance(Harmless(Unobserved()), Observer)


def test_the_life_of_requests_is_told(backbone, kinds):
    notes = Notes()
    with Engine(backbone, observer=notes) as engine:
        read = engine.submit(Ask(kinds["labels"], FILM, "reads")).result(30)
        ended = engine.submit(Ask(kinds["long text"], FILM, "writes", max_tokens=5)).result(30)
    assert notes.of("queued") == [("reads", read.usage.prompt_tokens), ("writes", ended.usage.prompt_tokens)]
    assert [name for name, _ in notes.of("started")] == ["reads", "writes"]
    assert [name for name, _ in notes.of("first_token")] == ["writes"]
    assert len(notes.of("token_gap")) == ended.usage.completion_tokens - 1
    assert [(name, outcome, tokens) for name, outcome, _, tokens in notes.of("ended")] == [
        ("reads", "read", 0),
        ("writes", ended.reason, ended.usage.completion_tokens),
    ]
    assert all(seconds >= 0 for _, _, seconds, _ in notes.of("ended"))
    assert all(name == "queued" or thread == "softprompt-engine" for name, thread in notes.threads)


def test_steps_and_the_cache_are_told(gated, kinds):
    notes = Notes()
    with Engine(gated, observer=notes) as engine:
        gated.gate.clear()
        head = engine.submit(Ask(kinds["labels"], FILM, "head"))
        assert gated.entered.wait(30)
        tickets = [engine.submit(Ask(kinds[name], FILM, name, max_tokens=2)) for name in ("labels", "trie", "text")]
        gated.gate.set()
        for ticket in [head, *tickets]:
            ticket.result(30)
    first, second, *rest = [step for (step,) in notes.of("step")]
    row = len(head.row.ids)
    assert isinstance(first, Step)
    assert first[1:] == (1, 0, 0, 1, row, 0, 0, 3)
    assert (second.read, second.begun, second.written, second.prompts, second.rows) == (2, 1, 1, 3, 3)
    assert second.tokens == sum(len(ticket.row.ids) for ticket in tickets) + 1
    assert second.waiting == 0
    assert all((step.read, step.begun, step.written) == (0, 0, 1) for step in rest)
    (first,), (second,) = notes.of("cache")
    assert first == CacheUse(0, 1, first.bytes, 1)
    assert (second.hits, second.misses, second.prompts) == (1, 3, 3)
    assert second.bytes > first.bytes > 0


def test_ends_without_an_answer_are_told(gated, kinds):
    notes = Notes()
    engine = Engine(gated, observer=notes, queue=2)
    gated.gate.clear()
    head = engine.submit(Ask(kinds["labels"], FILM, "head"))
    assert gated.entered.wait(30)
    late = engine.submit(Ask(kinds["labels"], FILM, "late"))
    for name in ("closed", "third"):
        engine.submit(Ask(kinds["labels"], FILM, name))
    with pytest.raises(QueueFullError):
        engine.submit(Ask(kinds["labels"], FILM, "refused"))
    late.cancel()
    closing = threading.Thread(target=engine.close, kwargs={"drain": False})
    gated.gate.set()
    head.result(30)
    closing.start()
    closing.join(30)
    assert notes.of("refused") == [("refused",)]
    outcomes = {name: outcome for name, outcome, _, _ in notes.of("ended")}
    assert outcomes["head"] == "read"
    assert outcomes["late"] in ("cancelled", "closed")
    assert outcomes["closed"] in ("closed", "read")


@pytest.mark.parametrize("too_late", [False, True])
def test_the_last_requests_to_be_given_up_are_told_as_gone(gated, kinds, too_late):
    notes = Notes()
    with Engine(gated, observer=notes, rows=1) as engine:
        gated.gate.clear()
        flying = engine.submit(Ask(kinds["long text"], FILM, "flies", deadline=0.5 if too_late else None))
        assert gated.entered.wait(30)
        waiting = engine.submit(Ask(kinds["long text"], FILM, "waits", deadline=0.5 if too_late else None))
        if too_late:
            time.sleep(0.6)
        else:
            flying.cancel()
            waiting.cancel()
        gated.gate.set()
        for each in (flying, waiting):
            with pytest.raises((RequestCancelledError, DeadlineError)):
                each.result(30)
        until(lambda: notes.of("step")[-1][0][-3:] == (0, 0, 0))
    steps = [step for (step,) in notes.of("step")]
    assert [step.rows for step in steps] == [1, 0]  # the pass, and then nothing
    assert steps[0].running == 1
    assert steps[1].tokens == steps[1].prompts == 0


def test_what_an_engine_leaves_unanswered_at_its_end_is_told_as_gone(gated, kinds):
    notes = Notes()
    engine = Engine(gated, observer=notes)
    gated.gate.clear()
    ticket = engine.submit(Ask(kinds["long text"], FILM))
    assert gated.entered.wait(30)
    closing = threading.Thread(target=engine.close, kwargs={"drain": False})
    closing.start()
    gated.gate.set()
    closing.join(30)
    with pytest.raises(EngineClosedError):
        ticket.result(30)
    assert notes.of("step")[-1][0][-3:] == (0, 0, 0)


def test_an_observer_that_fails_harms_nobody(backbone, kinds, caplog):
    class Bad(Unobserved):
        def queued(self, name, prompt_tokens):
            raise ValueError("no")

        def step(self, step):
            raise ValueError("no")

        def ended(self, name, outcome, seconds, completion_tokens):
            raise ValueError("no")

    with Engine(backbone, observer=Bad()) as engine:
        assert engine.submit(Ask(kinds["long text"], FILM)).result(30)
        assert engine.healthy
    assert "an observer failed and is asked again next time; requests go on" in caplog.text

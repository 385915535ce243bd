"""Answers of an engine are those that requests get alone, whatever they share their passes with."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref

import pytest

from softprompt.errors import (
    ConfigError,
    DeadlineError,
    EngineClosedError,
    IncompatiblePromptError,
    QueueFullError,
    RequestCancelledError,
    TemplateError,
)
from softprompt.modeling.sampling import Sampling
from softprompt.serving import engine as module
from softprompt.serving.asking import Answering, Ask, Ended, Failed, Piece, Shared, Ticket
from softprompt.serving.engine import Engine
from softprompt.testing.conformance import prompt, rows
from softprompt.testing.tiny import tiny_backbone

FILM = {"text": "a gripping film"}
DRAWN = Sampling(temperature=0.9, top_p=0.95, seed=3)


@pytest.fixture
def engine(backbone):
    with Engine(backbone) as engine:
        yield engine


def mixture(kinds, bare, count, seed=0):
    """Requests of all kinds, in any order, for rows of many lengths."""
    rng, found = random.Random(seed), []
    for number in range(count):
        name = rng.choice([*kinds, "bare"])
        sampling = rng.choice([Sampling(), Sampling(temperature=1.2, top_k=40, seed=number), DRAWN])
        stop, most = rng.choice([(), ("e",)]), rng.choice([None, 3, 9])
        row = rng.choice(rows(14))
        found.append(Ask(kinds.get(name, bare), row, name, sampling, most, stop, rng.choice([0, 2])))
    return found


def test_it_is_what_the_application_asks_of_an_engine(engine, kinds):
    assert isinstance(engine, Answering)
    assert isinstance(engine.submit(Ask(kinds["labels"], FILM)), Ticket)


def test_a_mixture_from_eight_threads_is_answered_as_one_by_one(backbone, kinds, bare, alone, same_answer):
    asks = mixture(kinds, bare, 96)
    found = {}

    def ask_some(which):
        tickets = [(number, engine.submit(asks[number])) for number in range(which, len(asks), 8)]
        found.update({number: ticket.result(60) for number, ticket in tickets})

    with Engine(backbone, rows=16, step_tokens=256) as engine:
        threads = [threading.Thread(target=ask_some, args=(which,)) for which in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == len(asks)
    for number, ask in enumerate(asks):
        expected = alone(ask)
        same_answer(found[number].answer, expected.answer)
        if expected.writing is not None:
            assert found[number].usage.completion_tokens == len(expected.writing.tokens)
            assert found[number].reason == expected.writing.ended
        else:
            assert found[number].reason == "read"


def test_a_row_that_several_ask_is_encoded_once(engine, kinds, alone, same_answer, monkeypatch):
    encoded, encode = [], engine.model.encode
    monkeypatch.setattr(engine.model, "encode", lambda row, bound: encoded.append(row) or encode(row, bound))
    shared = Shared()
    asks = [Ask(kinds["long text"], FILM, sampling=Sampling(1.2, seed=n), shared=shared) for n in range(4)]
    found = [engine.submit(ask) for ask in asks]
    for ask, ticket in zip(asks, found, strict=True):
        same_answer(ticket.result(30).answer, alone(ask).answer)
    assert encoded == [FILM]


def test_what_is_read_of_a_row_is_told_from_its_first_pass_on(gated, kinds):
    with Engine(gated, rows=1) as engine:
        gated.gate.clear()
        first = engine.submit(Ask(kinds["long text"], FILM))
        assert gated.entered.wait(30)
        second = engine.submit(Ask(kinds["long text"], FILM))
        assert (first.read, second.read) == (first.tokens, 0)
        second.cancel()
        gated.gate.set()
        with pytest.raises(RequestCancelledError):
            second.result(30)
        assert second.read == 0
        assert first.result(30).usage.prompt_tokens == first.read > 0


def test_pieces_add_up_and_tell_every_token(engine, kinds, alone):
    ask = Ask(kinds["long text"], FILM, sampling=DRAWN, likeliest=3)
    events = []
    ended = engine.submit(ask, events.append).result(30)
    writing = alone(ask).writing
    assert events[-1] is ended
    pieces = events[:-1]
    assert all(isinstance(piece, Piece) for piece in pieces)
    assert "".join(piece.text for piece in pieces) == writing.written().text
    tokens = [token for piece in pieces for token in piece.tokens]
    assert [token.id for token in tokens] == writing.tokens
    for token, log_probability in zip(tokens, writing.log_probabilities, strict=True):
        assert token.log_probability == pytest.approx(log_probability, abs=1e-4)
        assert len(token.likeliest) == 3
        assert token.text == next((text for at, text, _ in token.likeliest if at == token.id), token.text)


def test_usage_counts_virtual_tokens_and_text(engine, backbone, kinds):
    some = kinds["labels"]
    words = len(backbone.tokenizer.encode("Text:", add_special_tokens=False))
    row = len(engine.model.encode(FILM, engine.model.bind(some)).ids)
    usage = engine.submit(Ask(some, FILM)).result(30).usage
    assert usage == (1 + 5 + words + row, 0)


def test_what_is_wrong_with_a_request_is_said_where_it_is_made(engine, kinds):
    with pytest.raises(TemplateError, match="text"):
        engine.submit(Ask(kinds["labels"], {"body": "?"}))
    with pytest.raises(IncompatiblePromptError):
        engine.submit(Ask(prompt(tiny_backbone("gpt2"), 2), FILM))
    with pytest.raises(ConfigError, match="max_tokens is 0"):
        engine.submit(Ask(kinds["text"], FILM, max_tokens=0))
    with pytest.raises(ConfigError, match="deadline is -1; it is in seconds from now"):
        engine.submit(Ask(kinds["text"], FILM, deadline=-1.0))
    assert engine.waiting == 0


def test_whoever_has_nothing_to_compute_leaves_the_cores(backbone, kinds, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "leave_cores", lambda: seen.append(threading.current_thread().name))
    with Engine(backbone) as engine:
        assert seen[0] == threading.current_thread().name  # who starts it
        engine.submit(Ask(kinds["labels"], FILM)).result(10)
        before = len(seen)
        time.sleep(0.4)
        assert seen[before:] == ["softprompt-engine"]  # once, however long nothing comes


def test_numbers_of_an_engine_are_checked(backbone):
    with pytest.raises(ConfigError, match="rows is 0; it is at least 1"):
        Engine(backbone, rows=0)


def test_a_ticket_tells_that_it_took_too_long_to_wait(gated, kinds):
    with Engine(gated) as engine:
        gated.gate.clear()
        ticket = engine.submit(Ask(kinds["labels"], FILM))
        with pytest.raises(TimeoutError, match=r"no answer within 0.01 s; the request goes on"):
            ticket.result(0.01)
        gated.gate.set()
        assert ticket.result(30).reason == "read"


def test_a_request_that_is_given_up_leaves_the_flight(gated, kinds):
    with Engine(gated) as engine:
        seen = []
        other = engine.submit(Ask(kinds["long text"], FILM, "other", max_tokens=30))

        def hear(event):
            seen.append(event)
            if len(seen) == 3:
                ticket.cancel()

        gated.gate.clear()
        ticket = engine.submit(Ask(kinds["long text"], FILM, "mine", sampling=DRAWN), hear)
        gated.gate.set()
        with pytest.raises(RequestCancelledError, match="the request for `mine` was given up"):
            ticket.result(30)
        assert isinstance(seen[-1], Failed)
        assert len(seen) == 4  # the piece at which it was given up was the last
        assert other.result(30).reason in ("stop", "length")
        ticket.cancel()  # nothing happens any more
        assert engine.running == 0


def test_a_request_that_is_given_up_while_it_waits_is_never_run(gated, kinds):
    with Engine(gated) as engine:
        gated.gate.clear()
        first = engine.submit(Ask(kinds["labels"], FILM))
        gated.entered.wait(30)
        waiting = engine.submit(Ask(kinds["trie"], FILM, "late"))
        waiting.cancel()
        gated.gate.set()
        first.result(30)
        with pytest.raises(RequestCancelledError, match="late"):
            waiting.result(30)
        assert gated.passes == [[kinds["labels"].digest]]
        assert engine.waiting == 0


def test_a_deadline_ends_what_waits_and_what_is_written(gated, kinds):
    with Engine(gated) as engine:
        gated.gate.clear()
        first = engine.submit(Ask(kinds["labels"], FILM))
        gated.entered.wait(30)
        waiting = engine.submit(Ask(kinds["labels"], FILM, "late", deadline=0.02))
        time.sleep(0.03)
        gated.gate.set()
        first.result(30)
        with pytest.raises(DeadlineError, match=r"`late` was not answered within its 0.02 s, and was still waiting"):
            waiting.result(30)
        slow = Ask(kinds["long text"], FILM, "slow", deadline=0.05)
        writing = engine.submit(slow, lambda event: time.sleep(0.03))
        with pytest.raises(DeadlineError, match=r"and had \d+ tokens written; give it more time"):
            writing.result(30)
        assert (engine.waiting, engine.running) == (0, 0)
        assert engine.submit(Ask(kinds["labels"], FILM, deadline=30.0)).result(30)


def test_a_full_queue_refuses_and_says_when_to_come_again(gated, kinds):
    with Engine(gated, queue=4, rows=1) as engine:
        gated.gate.clear()
        running = engine.submit(Ask(kinds["labels"], FILM))
        gated.entered.wait(30)
        waiting = [engine.submit(Ask(kinds["labels"], FILM)) for _ in range(4)]
        with pytest.raises(QueueFullError, match="4 requests are waiting, as many as may; ask again in") as full:
            engine.submit(Ask(kinds["labels"], FILM))
        assert 0.1 <= full.value.retry_after <= 60
        gated.gate.set()
        assert all(ticket.result(30).reason == "read" for ticket in [running, *waiting])
        assert engine.submit(Ask(kinds["labels"], FILM)).result(30)


def test_a_name_that_fills_the_queue_keeps_no_other_out(gated, kinds):
    with Engine(gated, queue=16, rows=2) as engine:
        gated.gate.clear()
        running = engine.submit(Ask(kinds["labels"], FILM, "flood"))
        gated.entered.wait(30)
        flood = [engine.submit(Ask(kinds["labels"], FILM, "flood")) for _ in range(16)]
        polite = engine.submit(Ask(kinds["labels"], FILM, "polite"))
        for name in ("flood", "polite"):
            with pytest.raises(QueueFullError, match="17 requests are waiting, as many as may"):
                engine.submit(Ask(kinds["labels"], FILM, name))
        assert engine.waiting == 17
        with pytest.raises(TemplateError, match="text"):
            engine.submit(Ask(kinds["labels"], {"body": "?"}, "another"))
        flood.pop().cancel()
        gated.gate.set()
        assert all(ticket.result(30).reason == "read" for ticket in [running, polite, *flood])
        assert engine.waiting == 0
        assert not engine._inbox._places


def test_after_a_night_without_work_a_quick_engine_is_still_known_as_quick(backbone, kinds, monkeypatch):
    night = 0.0
    monkeypatch.setattr("softprompt.serving.worker.monotonic", lambda: time.monotonic() + night)
    with Engine(backbone) as engine:
        for _ in range(2):
            for ticket in [engine.submit(Ask(kinds["labels"], row)) for row in rows(20)]:
                ticket.result(30)
            night += 36_000.0
        assert engine._worker._pace.wait_for(20) < 10


def test_closing_with_drain_answers_what_was_taken_in(gated, kinds):
    engine = Engine(gated, rows=4)
    gated.gate.clear()
    tickets = [engine.submit(Ask(kinds["text"], row, max_tokens=5)) for row in rows(10)]
    closer = threading.Thread(target=engine.close)
    closer.start()
    while not engine._inbox.closed:
        time.sleep(0.001)
    with pytest.raises(EngineClosedError, match="the engine takes no more requests"):
        engine.submit(Ask(kinds["text"], FILM))
    gated.gate.set()
    closer.join(30)
    assert all(isinstance(ticket.result(0), Ended) for ticket in tickets)
    assert not engine.healthy


def test_closing_without_drain_fails_what_is_left(gated, kinds):
    engine = Engine(gated, rows=2)
    gated.gate.clear()
    tickets = [engine.submit(Ask(kinds["long text"], row)) for row in rows(8)]
    threading.Timer(0.05, gated.gate.set).start()
    engine.close(drain=False)
    for ticket in tickets:
        with pytest.raises(EngineClosedError, match="closed before this request was answered"):
            ticket.result(0)
    engine.close()  # again changes nothing


def test_closing_does_not_wait_longer_than_it_was_told(gated, kinds):
    engine = Engine(gated, rows=1)
    done, slow = threading.Event(), []

    def hear(event):
        slow.append(event)
        done.wait(0.02)

    tickets = [engine.submit(Ask(kinds["long text"], row), hear) for row in rows(8)]
    engine.close(drain=True, timeout=0.1)
    with pytest.raises(EngineClosedError):
        tickets[-1].result(5)
    engine.close()
    assert not engine.healthy


def test_a_thousand_requests_leave_nothing_behind(backbone, kinds, bare):
    before = threading.active_count()
    with Engine(backbone, rows=32) as engine:
        asks = mixture(kinds, bare, 40, seed=1)
        tickets = []
        for number in range(1000):
            ask = asks[number % 40]
            tickets.append(engine.submit(Ask(ask.prompt, ask.fields, ask.name, max_tokens=2, deadline=600.0)))
            if number % 7 == 0:
                tickets.pop().cancel()
        for ticket in tickets:
            ticket.result(60)
        kept = weakref.ref(tickets[0])
        del ticket, tickets
        deadline = time.monotonic() + 10
        while (engine.waiting, engine.running) != (0, 0) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (engine.waiting, engine.running) == (0, 0)
        assert engine._worker._passes.slots == 0
        engine.submit(asks[0]).result(30)  # so that the last turn's names are forgotten
        gc.collect()
        assert kept() is None
        assert threading.active_count() == before + 1
    assert threading.active_count() == before

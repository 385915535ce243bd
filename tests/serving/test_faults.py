"""What goes wrong in a pass or a step ends the request that is to blame, and no other."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import pytest
import torch

from softprompt.errors import BackboneError, EngineClosedError
from softprompt.modeling.flight import Flight
from softprompt.modeling.sampling import Sampling
from softprompt.serving.asking import Ask, Failed
from softprompt.serving.engine import Engine
from softprompt.serving.passes import Outcome, Outcomes
from softprompt.serving.worker import Worker
from softprompt.testing.conformance import rows

FILM = {"text": "a gripping film"}
POISON = {"text": "WINNER! WINNER! free prize"}


class BrokenError(RuntimeError):
    """What a spoiled pass raises."""


def together(gated, engine, asks, listener=None):
    """Submit requests so that they share a pass."""
    gated.gate.clear()
    gated.entered.clear()
    head = engine.submit(Ask(asks[0].prompt, FILM, "head", max_tokens=1))
    assert gated.entered.wait(30)
    tickets = [engine.submit(ask, listener) for ask in asks]
    gated.gate.set()
    head.result(30)
    return tickets


def refuse(bad, error):
    """Break every pass in which a row with these tokens stands."""

    def spoil(rows, flight):
        if any(set(bad) <= set(row.ids) for row in rows):
            raise error

    return spoil


def tokens_of(backbone, row):
    return backbone.tokenizer.encode("WINNER! WINNER!", add_special_tokens=False)


def test_a_poisoned_row_fails_alone(gated, backbone, kinds, alone, same_answer):
    gated.spoil = refuse(tokens_of(backbone, POISON), BrokenError("this row"))
    asks = [Ask(kinds[name], row, name) for name in ("labels", "trie", "text", "number") for row in rows(4)]
    asks.insert(7, Ask(kinds["labels"], POISON))
    with Engine(gated) as engine:
        tickets = together(gated, engine, asks)
        for number, (ask, ticket) in enumerate(zip(asks, tickets, strict=True)):
            if number == 7:
                with pytest.raises(BrokenError, match="this row"):
                    ticket.result(30)
            else:
                same_answer(ticket.result(30).answer, alone(ask).answer)
        assert engine.healthy
        assert engine.running == 0


def test_a_pass_that_fails_after_rows_joined_leaves_none_of_them_twice(gated, backbone, kinds, alone):
    begin = type(gated).__mro__[1].begin
    broken = []

    def late(rows, flight):
        if len(rows) > 2 and not broken:
            broken.append(len(rows))
            bounds = [gated.bind(kinds["text"])] * len(rows)
            begin(gated, rows, bounds, joined, flight)
            raise BrokenError("after joining")

    asks = [Ask(kinds["text"], row, sampling=Sampling(temperature=1.0, seed=4)) for row in rows(5)]
    with Engine(gated) as engine:
        gated.gate.clear()
        gated.entered.clear()
        head = engine.submit(Ask(kinds["labels"], FILM))
        assert gated.entered.wait(30)
        tickets = [engine.submit(ask) for ask in asks]
        joined = [ticket.writing for ticket in tickets]
        gated.spoil = late
        gated.gate.set()
        head.result(30)
        for ask, ticket in zip(asks, tickets, strict=True):
            assert ticket.result(30).answer.label == alone(ask).answer.label
        assert broken == [5]


def test_a_prompt_that_gives_no_numbers_is_told(backbone, kinds):
    def huge(some):
        return replace(some, tensors={site: torch.full_like(each, 3e38) for site, each in some.tensors.items()})

    with Engine(backbone) as engine:
        good = engine.submit(Ask(kinds["labels"], FILM))
        for name in ("deep", "deep text"):
            ticket = engine.submit(Ask(huge(kinds[name]), FILM, "huge"))
            with pytest.raises(BackboneError, match="`huge` gives no probabilities on this row but NaN, in torch"):
                ticket.result(30)
        assert good.result(30).reason == "read"
        assert engine.running == 0


def test_a_pass_that_does_not_fit_is_halved(gated, backbone, kinds, alone, same_answer, caplog):
    def full(rows, flight):
        if len(rows) > 3:
            raise torch.OutOfMemoryError("no room")

    gated.spoil = full
    asks = [Ask(kinds["labels"], row) for row in rows(14)]
    with Engine(gated) as engine:
        for ask, ticket in zip(asks, together(gated, engine, asks), strict=True):
            same_answer(ticket.result(30).answer, alone(ask).answer)
        assert engine._worker._passes.tokens < 4096
    assert "did not fit in memory; passes have at most" in caplog.text


def test_a_row_that_never_fits_fails_in_words(gated, kinds):
    gated.spoil = refuse([], RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    with (
        Engine(gated) as engine,
        pytest.raises(BackboneError, match=r"\d+ tokens do not fit in memory, even in a pass"),
    ):
        engine.submit(Ask(kinds["labels"], FILM)).result(30)


def test_new_rows_that_find_no_memory_beside_a_flight_get_it(gated, kinds, alone, caplog):
    def full(rows, flight):
        if len(flight) + len(rows) > 4:
            raise MemoryError

    drawn = Sampling(temperature=1.0, seed=9)
    asks = [Ask(kinds["long text"], row, sampling=drawn, max_tokens=9) for row in rows(7)]
    with Engine(gated) as engine:
        gated.spoil = full
        pieces = {number: [] for number in range(len(asks))}
        tickets = [engine.submit(ask, pieces[number].append) for number, ask in enumerate(asks)]
        for number, (ask, ticket) in enumerate(zip(asks, tickets, strict=True)):
            expected = alone(ask)
            assert ticket.result(60).answer.label == expected.answer.label
            said = [token.id for piece in pieces[number][:-1] for token in piece.tokens]
            assert said == expected.writing.tokens  # none twice, none missing
        assert engine._worker._passes.rows <= 4
    assert "rows in flight did not fit in memory" in caplog.text


def passes_of(engine):
    return engine._worker._passes


def test_a_request_that_fits_nowhere_makes_passes_no_smaller(gated, kinds, caplog):
    def full(rows, flight):
        if any(len(row.ids) > 120 for row in rows):
            raise torch.OutOfMemoryError("no room")

    gated.spoil = full
    with Engine(gated, rows=16) as engine:
        for beside in (("long text",) * 16, ("labels",) * 8, ()):
            tickets = [engine.submit(Ask(kinds[name], FILM, "good")) for name in beside]
            while "long text" in beside and engine.running < 16:
                time.sleep(0.001)
            for name in ("labels", "long text"):
                with pytest.raises(
                    BackboneError, match=r"\d+ tokens do not fit in memory, even in a pass of their own"
                ):
                    engine.submit(Ask(kinds[name], {"text": "word " * 80}, "bad")).result(30)
            assert all(ticket.result(30) for ticket in tickets)
            assert (passes_of(engine).rows, passes_of(engine).tokens) == (16, 4096)
    assert "again, for it was a request that fits nowhere that found no memory" in caplog.text


def test_passes_grow_again_while_memory_suffices(gated, kinds, monkeypatch, caplog):
    monkeypatch.setattr("softprompt.serving.passes._CALM", 4)
    tight = [True]

    def full(rows, flight):
        if tight[0] and len(flight) + len(rows) > 2:
            raise MemoryError

    gated.spoil = full
    found = set()
    # Whether they grow again before the last request is a matter of who came into which pass.
    with caplog.at_level(logging.INFO, logger="softprompt.serving"), Engine(gated, rows=16, step_tokens=512) as engine:
        asks = [Ask(kinds["long text"], row, max_tokens=2) for row in rows(6)]
        asks += [Ask(kinds["labels"], row) for row in rows(6)]
        for ticket in together(gated, engine, asks, lambda _: found.add(passes_of(engine).rows)):
            ticket.result(60)
        assert min(found) <= 4
        tight[0] = False
        engine.submit(Ask(kinds["long text"], FILM)).result(60)
        assert (passes_of(engine).rows, passes_of(engine).tokens) == (16, 512)
    assert "memory has sufficed for 4 passes and steps; there are at most 16 rows in flight" in caplog.text


class Stumbling(Flight):
    """A flight whose steps fail as the class is told."""

    fails: list = []

    def step(self):
        for fail in self.fails:
            fail(self)
        return super().step()


@pytest.fixture
def stumbling(monkeypatch):
    monkeypatch.setattr("softprompt.serving.passes.Flight", Stumbling)
    Stumbling.fails = []
    return Stumbling


def test_a_step_that_fails_is_done_again_without_the_guilty(gated, stumbling, kinds, alone):
    asks = [Ask(kinds["long text"], row, sampling=Sampling(temperature=1.0, seed=2)) for row in rows(6)]
    with Engine(gated) as engine:
        tickets = together(gated, engine, asks)
        guilty = tickets[2].writing

        def fail(flight):
            if any(guilty in side.writings for side in flight._sides) and len(guilty.tokens) == 5:
                raise BrokenError("its sixth token")

        stumbling.fails = [fail]
        with pytest.raises(BrokenError, match="sixth"):
            tickets[2].result(30)
        for number in (0, 1, 3, 4, 5):
            assert tickets[number].result(30).answer.label == alone(asks[number]).answer.label
        assert engine.running == 0


def test_a_step_that_fails_once_costs_nobody_anything(gated, stumbling, kinds, alone):
    asks = [Ask(kinds["long text"], row, sampling=Sampling(temperature=1.0, seed=2)) for row in rows(6)]
    times = []

    def fail(flight):
        times.append(len(flight))
        if len(times) in (4, 11):
            raise torch.OutOfMemoryError("full") if len(times) == 11 else BrokenError("a hiccup")

    stumbling.fails = [fail]
    with Engine(gated) as engine:
        for ask, ticket in zip(asks, together(gated, engine, asks), strict=True):
            assert ticket.result(30).answer.label == alone(ask).answer.label
        assert engine.running == engine.waiting == 0


def test_a_step_that_fails_among_its_draws_draws_again_what_it_would_have_and_no_more(gated, kinds, alone, monkeypatch):
    asks = [Ask(kinds["long text"], row, sampling=Sampling(temperature=1.0, seed=2)) for row in rows(6)]
    expected = [alone(ask) for ask in asks]
    rand, draws = torch.rand, []

    def broken(*what, **how):
        draws.append(None)
        if len(draws) in (75, 160):  # others of the step have drawn, and others have not
            raise BrokenError("a hiccup")
        return rand(*what, **how)

    monkeypatch.setattr(torch, "rand", broken)
    with Engine(gated) as engine:
        for one, ticket in zip(expected, together(gated, engine, asks), strict=True):
            assert ticket.result(30).answer.label == one.answer.label
    assert 160 < len(draws) <= sum(len(one.writing.tokens) for one in expected) + 2 * 6  # the head draws none


def test_rows_whose_step_fails_begin_again_in_passes_no_larger_than_others(gated, stumbling, kinds, alone):
    asks = [Ask(kinds["long text"], row) for row in rows(8)]
    ran, times = [], []
    gated.spoil = lambda rows, flight: ran.append((len(rows), len(rows) * max(len(row.ids) for row in rows)))

    def fail(flight):
        times.append(len(flight))
        if len(times) == 14 and len(flight) >= 6:
            raise BrokenError("a hiccup")

    stumbling.fails = [fail]
    with Engine(gated, step_tokens=100) as engine:
        for ask, ticket in zip(asks, together(gated, engine, asks), strict=True):
            assert ticket.result(30).answer.label == alone(ask).answer.label
    assert times[13] >= 6, "many flew together"
    assert any(count > 1 for count, _ in ran)
    assert all(count == 1 or tokens <= 100 for count, tokens in ran)


class Contrary:
    """Runs nothing, and says of a request in one breath that it has failed and that it is to begin again."""

    rows, tokens, slots = 4, 100, 0

    def __init__(self):
        self.flying, self.begun = [], 0

    def __len__(self):
        return len(self.flying)

    def begin(self, requests):
        self.begun += 1
        assert self.begun < 9, "it began again and again"
        self.flying += requests
        return Outcomes([Outcome(each) for each in requests], [])

    def step(self):
        return Outcomes([Outcome(each, error=BrokenError("it failed")) for each in self.flying], self.clear())

    def leave(self, request):
        assert request not in self.flying

    def clear(self):
        found, self.flying = self.flying, []
        return found


def test_a_request_that_failed_does_not_begin_again(gated, kinds):
    passes, events = Contrary(), []
    with Engine(gated, passes=passes) as engine:
        ticket = engine.submit(Ask(kinds["long text"], FILM), events.append)
        with pytest.raises(BrokenError, match="it failed"):
            ticket.result(30)
        with pytest.raises(BrokenError, match="it failed"):
            engine.submit(Ask(kinds["long text"], FILM)).result(30)
    assert len(events) == 1
    assert (passes.begun, engine.running, engine.waiting) == (2, 0, 0)


def test_a_listener_that_fails_hears_no_more_and_the_answer_comes(backbone, kinds, alone, caplog):
    heard = []

    def hear(event):
        heard.append(event)
        raise ValueError("not now")

    ask = Ask(kinds["long text"], FILM, "mine")
    with Engine(backbone) as engine:
        assert engine.submit(ask, hear).result(30).answer.label == alone(ask).answer.label
    assert len(heard) == 1
    assert "the listener of a request for `mine` failed and hears no more of it" in caplog.text


LOST = RuntimeError("CUDA error: an illegal memory access was encountered\nKernel errors might be reported later.")


def test_a_device_that_is_lost_breaks_the_engine_and_leaves_nobody_waiting(gated, kinds, caplog):
    gated.spoil = refuse([], LOST)
    with Engine(gated) as engine:
        gated.gate.clear()
        tickets = [engine.submit(Ask(kinds["labels"], row)) for row in rows(4)]
        assert gated.entered.wait(30)
        tickets.append(engine.submit(Ask(kinds["text"], FILM)))
        gated.gate.set()
        for ticket in tickets:
            with pytest.raises(EngineClosedError, match="the device `cpu` is lost to this process: CUDA error: an ill"):
                ticket.result(30)
        assert not engine.healthy
        assert engine.waiting == engine.running == 0
        assert len(gated.passes) == 1  # which of its rows is to blame was not looked for
    assert "it must be started again" in caplog.text


def test_a_device_that_is_lost_in_a_step_or_while_the_guilty_are_looked_for_breaks_the_engine(gated, stumbling, kinds):
    for errors in ([LOST], [BrokenError("a hiccup"), LOST]):
        asks, left, later = [Ask(kinds["long text"], row) for row in rows(6)], list(errors), []

        def fail(flight, errors=errors, left=left, later=later):
            if not left:
                later.append(len(flight))
            elif len(flight) >= 6 or len(left) < len(errors):
                raise left.pop(0)

        stumbling.fails = [fail]
        with Engine(gated) as engine:
            for ticket in together(gated, engine, asks):
                with pytest.raises(EngineClosedError, match="is lost to this process"):
                    ticket.result(30)
            assert not engine.healthy
        assert not left
        assert not later  # nothing is tried once the device is lost


def test_a_device_whose_loss_is_told_when_numbers_are_read_breaks_the_engine(gated, kinds, monkeypatch):
    def lost(self, outcome):
        raise LOST

    monkeypatch.setattr(Worker, "_read", lost)
    with Engine(gated) as engine:
        with pytest.raises(EngineClosedError, match="is lost to this process"):
            engine.submit(Ask(kinds["labels"], FILM)).result(30)
        assert not engine.healthy


def test_a_call_that_was_wrong_on_a_gpu_that_computes_on_is_its_row_s_fault(gated, kinds, monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    gated.spoil = refuse([], RuntimeError("CUDA error: invalid configuration argument"))
    with Engine(gated) as engine:
        with pytest.raises(RuntimeError, match="invalid configuration"):
            engine.submit(Ask(kinds["labels"], FILM)).result(30)
        gated.spoil = lambda rows, flight: None
        assert engine.submit(Ask(kinds["labels"], FILM)).result(30).reason == "read"
        assert engine.healthy


def test_an_engine_that_breaks_leaves_nobody_waiting(gated, kinds, monkeypatch, caplog):
    engine = Engine(gated)
    gated.gate.clear()
    events = []
    ticket = engine.submit(Ask(kinds["long text"], FILM), events.append)
    gated.entered.wait(30)
    waiting = engine.submit(Ask(kinds["labels"], FILM))

    def broken(self):
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(Worker, "turn", broken)
    with caplog.at_level(logging.ERROR, logger="softprompt.serving"):
        gated.gate.set()
        for each in (ticket, waiting):
            with pytest.raises(EngineClosedError, match="the engine has ended because of an error of its own: Zero"):
                each.result(30)
    engine.close()
    assert isinstance(events[-1], Failed)
    assert not engine.healthy
    assert "it must be started again" in caplog.text
    with pytest.raises(EngineClosedError, match="takes no more requests"):
        engine.submit(Ask(kinds["labels"], FILM))

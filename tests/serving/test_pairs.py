"""Many rows in order, in constant memory."""

from __future__ import annotations

import threading
import time

import pytest

from softprompt.errors import (
    ConfigError,
    DataError,
    EngineClosedError,
    IncompatiblePromptError,
    QueueFullError,
    TemplateError,
)
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.serving.asking import Ask
from softprompt.serving.catalog import Catalog
from softprompt.serving.engine import Engine
from softprompt.serving.pairs import fields_of
from softprompt.store.store import PromptStore
from softprompt.tasks.template import Template
from softprompt.testing.conformance import prompt, rows
from softprompt.testing.tiny import tiny_backbone

FILM = {"text": "a gripping film"}


def test_answers_come_in_order_whatever_their_kind(backbone, kinds, same_answer):
    names = ["labels", "text", "trie", "number", "deep", "yes-no"]
    pairs = [(kinds[names[n % 6]], row) for n, row in enumerate(rows(40))]
    expected = PromptedModel(backbone).score([row for _, row in pairs], [prompt for prompt, _ in pairs])
    with Engine(backbone, rows=8) as engine:
        found = list(engine.run(iter(pairs)))
    assert len(found) == 40
    for one, other in zip(found, expected, strict=True):
        same_answer(one, other)


def test_rows_are_read_as_they_are_needed(backbone, kinds):
    read = []

    def pairs():
        for number, row in enumerate(rows(500)):
            read.append(number)
            yield kinds["labels"], row

    with Engine(backbone, rows=2, queue=64) as engine:
        answers = engine.run(pairs())
        next(answers)
        assert len(read) <= 128 + 1
        answers.close()
        assert sum(1 for _ in engine.run((kinds["labels"], row) for row in rows(50))) == 50


def test_a_text_is_the_one_field(backbone, kinds, bare):
    with Engine(backbone) as engine:
        one, other = engine.run([(kinds["labels"], FILM["text"]), (kinds["labels"], FILM)])
        assert one == other
        assert next(engine.run([(bare, "a gripping film")])).label


def test_a_text_for_several_fields_is_refused():
    with pytest.raises(
        DataError, match=r"one text was given for `pair` whose template has the fields `a`, `b`; give a"
    ):
        fields_of(Template("{a} and {b}"), "good", "pair")


def test_other_weights_are_refused_unless_allowed(backbone):
    sister = prompt(tiny_backbone("gemma3", seed=1), 2)
    with Engine(backbone) as engine:
        with pytest.raises(IncompatiblePromptError, match="allow"):
            next(engine.run([(sister, FILM)]))
        assert next(engine.run([(sister, FILM)], allow_other_weights=True)).label


def test_names_need_a_catalog(backbone, kinds, tmp_path):
    store = PromptStore(tmp_path)
    store.put(kinds["labels"], "mail")
    with (
        Engine(backbone) as engine,
        pytest.raises(ConfigError, match="`mail` is asked for by name, and the engine has"),
    ):
        next(engine.run([("mail", FILM)]))
    with Engine(backbone, catalog=Catalog(store, backbone)) as engine:
        assert [answer.label for answer in engine.run([("mail", FILM), ("mail@v1", FILM)])]


def test_a_row_that_cannot_be_answered_is_raised_in_its_place(backbone, kinds):
    pairs = [(kinds["labels"], FILM)] * 3 + [(kinds["labels"], {"body": "?"})]
    with Engine(backbone) as engine:
        answers = engine.run(pairs)
        assert [next(answers).label for _ in range(3)]
        with pytest.raises(TemplateError):
            next(answers)
        assert engine.submit(Ask(kinds["labels"], FILM)).result(30)


def test_a_row_that_fails_later_is_raised_in_its_place_and_the_rest_is_given_up(gated, kinds):
    def spoil(rows, flight):
        if any(len(row.ids) > 40 for row in rows):
            raise RuntimeError("too long for me")

    gated.spoil = spoil
    pairs = [(kinds["labels"], FILM)] * 3 + [(kinds["labels"], {"text": "good " * 60})] + [(kinds["text"], FILM)] * 9
    with Engine(gated) as engine:
        answers = engine.run(pairs)
        assert [next(answers).label for _ in range(3)]
        with pytest.raises(RuntimeError, match="too long for me"):
            next(answers)


def test_it_waits_while_others_fill_the_queue(gated, kinds):
    with Engine(gated, queue=6, rows=2) as engine:
        gated.gate.clear()
        others = [engine.submit(Ask(kinds["trie"], FILM, "others")) for _ in range(6)]
        gated.gate.set()
        assert len(list(engine.run((kinds["labels"], row) for row in rows(20)))) == 20
        assert all(other.result(30) for other in others)


def test_it_has_its_share_beside_one_who_fills_the_queue(backbone, kinds):
    over, answered = threading.Event(), []

    def flood(engine):
        while not over.is_set():
            try:
                engine.submit(Ask(kinds["labels"], FILM, "flood"), answered.append)
            except QueueFullError:
                time.sleep(0.0005)

    with Engine(backbone, queue=64, rows=16) as engine:
        others = threading.Thread(target=flood, args=(engine,))
        others.start()
        while engine.waiting < 64:
            time.sleep(0.001)
        before = len(answered)
        assert sum(1 for _ in engine.run((kinds["labels"], FILM) for _ in range(150))) == 150
        meanwhile = len(answered) - before
        over.set()
        others.join()
        engine.close(drain=False)
    assert meanwhile < 10 * 150  # 60 for each, where the places in the queue are nobody's


def test_it_waits_for_its_own_requests_not_for_those_of_others(gated, kinds):
    read = []

    def pairs():
        for number in range(40):
            read.append(number)
            yield kinds["labels"], FILM

    with Engine(gated, queue=40) as engine:
        gated.gate.clear()
        head = engine.submit(Ask(kinds["trie"], FILM, "others"))
        assert gated.entered.wait(30)
        others = [head, *(engine.submit(Ask(kinds["trie"], FILM, "others")) for _ in range(31))]
        answers = engine.run(pairs())
        asker = threading.Thread(target=lambda: next(answers))
        asker.start()
        until = time.monotonic() + 10
        while len(read) < 8 and time.monotonic() < until:
            time.sleep(0.001)
        assert len(read) >= 8  # where others' requests count, it waits for the answer to the first
        gated.gate.set()
        asker.join()
        assert sum(1 for _ in answers) == 39
        assert all(other.result(30) for other in others)


def test_it_ends_when_the_engine_does(backbone, kinds):
    engine = Engine(backbone)
    answers = engine.run((kinds["labels"], row) for row in rows(5))
    next(answers)
    engine.close()
    rest = list(answers)
    assert len(rest) == 4
    with pytest.raises(EngineClosedError):
        next(engine.run([(kinds["labels"], FILM)]))

"""Examples in context: which are drawn, how they are written, and that they are scored as the plain text would be."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from softprompt.errors import TemplateError
from softprompt.methods import few_shot
from softprompt.methods.few_shot import AS_MANY_AS_FIT, FOUR, SIXTEEN, drawn, in_context, shown
from softprompt.methods.method import Effort
from softprompt.tasks.load import load_task
from softprompt.tasks.task import Example
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows

WORDS = {"positive": "good", "negative": "bad"}


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone("gemma3")


@pytest.fixture(scope="module")
def task():
    splits = {"train": toy_rows(60), "validation": toy_rows(12, 1), "test": toy_rows(20, 2)}
    return load_task(splits, name="toy", words=WORDS)


@pytest.fixture(scope="module")
def four(backbone, task):
    return FOUR.fit(backbone, task, 0, Effort())


def chosen(found):
    listed = found.notes[0].split("rows ")[1].split(" of train")[0]
    return [int(number) - 1 for number in listed.split(", ")]


def test_examples_are_scored_as_the_concatenated_text_is_by_transformers(backbone, task, four):
    """By hand: every token of the text in one row, and the labels' first tokens, which differ, at its end."""
    encode = backbone.tokenizer.encode
    first = [encode(word, add_special_tokens=False)[0] for word in task.readout.words]
    assert len(set(first)) == 2
    train, rows = task.splits["train"], task.splits["test"][:6]
    shots = "".join(f"Text: {train[at].fields['text']}\nLabel: {WORDS[train[at].label]}\n\n" for at in chosen(four))
    by_hand = []
    for row in rows:
        parts = (shots + "Text:", " " + row.fields["text"], "\nLabel:")
        ids = [backbone.bos, *(token for part in parts for token in encode(part, add_special_tokens=False))]
        with torch.no_grad():
            logits = backbone.model(torch.tensor([ids])).logits[0, -1, first]
        by_hand.append(torch.log_softmax(logits, 0).numpy())
    assert four.predictor.log_probabilities(rows) == pytest.approx(np.stack(by_hand), abs=1e-5)


def test_a_row_is_answered_alone_as_in_a_batch_and_the_examples_are_run_once(task, four):
    rows, predictor = task.splits["test"], four.predictor
    alone = np.concatenate([predictor.log_probabilities([row]) for row in rows])
    assert predictor.log_probabilities(rows) == pytest.approx(alone, abs=1e-5)
    assert predictor.model.cache.misses == 1


def test_draws_are_balanced_and_follow_the_seed(task):
    train = task.splits["train"]
    first, again, other = (drawn(train, task.labels, 16, seed) for seed in (0, 0, 1))
    assert Counter(row.label for _, row in first) == {"positive": 8, "negative": 8}
    assert first == again
    assert {place for place, _ in first} != {place for place, _ in other}
    assert all(train[place] is row for place, row in first)


def test_a_label_that_runs_out_leaves_its_turn_to_the_others():
    rows = [Example({"text": str(n)}, "a" if n < 6 else "b") for n in range(7)]
    assert Counter(row.label for _, row in drawn(rows, ("a", "b"), 5, 0)) == {"a": 4, "b": 1}
    assert len(drawn(rows, ("a", "b"), 50, 0)) == 7


def test_an_example_is_written_as_its_row_with_the_answer_behind(task):
    row = Example({"text": "a {warm} film"}, "positive")
    assert shown(task, row) == "Text: a {warm} film\nLabel: good\n\n"
    template = in_context(task, [row])
    assert template.pattern == "{bos}Text: a {{warm}} film\nLabel: good\n\nText: {text}\nLabel:"
    infix = replace(task, template=Template("{bos}{text} {soft}is"))
    assert in_context(infix, [row]).pattern == "{bos}a {{warm}} film is good\n\n{text} is"


def test_as_many_as_fit_fills_the_window(backbone, task):
    found = AS_MANY_AS_FIT.fit(backbone, task, 0, Effort())
    room = few_shot.Room.of(backbone, task)
    tokens = len(found.predictor.bound.template.prefix)
    assert tokens + room.longest + few_shot.MARGIN > backbone.max_positions - 60  # another example would not fit
    assert tokens + room.longest <= backbone.max_positions
    assert len(chosen(found)) > 4
    assert "as many as fit: a window of 256 tokens" in found.notes[1]


def test_at_most_sixty_four_examples_and_a_quarter_of_the_memory(backbone, task, monkeypatch):
    wide = tiny_backbone("gemma3", max_position_embeddings=8192)
    train = load_task({"train": toy_rows(80), "validation": toy_rows(8, 1), "test": toy_rows(8, 2)}, words=WORDS)
    assert len(chosen(AS_MANY_AS_FIT.fit(wide, train, 0, Effort()))) == few_shot.MOST
    monkeypatch.setattr("softprompt.training.memory.machine_memory", lambda: 4 << 20)
    poor = AS_MANY_AS_FIT.fit(wide, train, 0, Effort())
    assert 0 < len(chosen(poor)) < few_shot.MOST


def test_fewer_examples_than_asked_for_are_said(backbone, task):
    found = SIXTEEN.fit(backbone, task, 0, Effort())
    assert f"16 examples were asked for, and {len(chosen(found))} were to be had or fit" in found.notes[1]


def test_what_it_cannot_do_is_said(backbone, task):
    assert "learning from examples in context is for decoders" in FOUR.refuses(tiny_backbone("bert"), task)
    assert FOUR.refuses(backbone, task) is None
    small = tiny_backbone("gemma3", max_position_embeddings=48)
    with pytest.raises(TemplateError, match=r"no example of `toy` fits in front of its longest row \(\d+ tokens\)"):
        FOUR.fit(small, task, 0, Effort())


def test_an_example_that_does_not_fit_leaves_its_place_to_the_next(backbone, task):
    room = few_shot.Room.of(backbone, task)
    long = Example({"text": "film " * 200}, "positive")
    short = [(place, task.splits["train"][place]) for place in range(3)]
    assert room.fitting([(9, long), *short]) == short


def test_a_row_keeps_the_tokens_that_a_bound_leaves_it_without_examples(backbone):
    rows = {"train": toy_rows(20), "validation": [{"text": "film " * 60, "label": "positive"}, *toy_rows(5, 1)]}
    bounded = load_task(rows, words=WORDS, max_tokens=30)
    bound = FOUR.fit(backbone, bounded, 0, Effort()).predictor.bound
    bare = in_context(bounded, ()).tokenize(backbone.tokenizer, 0)
    fields = bounded.splits["validation"][0].fields
    assert len(bound.template.row(fields).ids) == 30 - len(bare.prefix)

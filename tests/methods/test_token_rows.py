from dataclasses import replace

import pytest
import torch

from softprompt.errors import DataError
from softprompt.methods.token_rows import UNKNOWN, TokenRows, padded
from softprompt.tasks.load import load_task
from softprompt.tasks.task import Example
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows


@pytest.fixture(scope="module")
def task():
    return load_task(toy_rows(80))


@pytest.fixture(scope="module")
def rows(task):
    return TokenRows(tiny_backbone("llama"), task, 0, 8)


def test_a_row_is_the_template_without_soft_slots(task, rows):
    backbone, example = tiny_backbone("llama"), task.splits["validation"][0]
    row, text = rows.validation[0], f"Text: {example.fields['text']}\nLabel:"
    assert row.ids[0] == backbone.bos
    assert backbone.tokenizer.decode(row.ids[1:]) == text
    assert row.ids[len(row.ids) - len(row.own.ids) :] == row.own.ids
    assert task.labels[row.gold] == example.label


def test_an_epoch_is_every_training_row_once_and_examples_are_counted(rows):
    batches = [rows.batch(step) for step in range(rows.batches_per_epoch)]
    assert sorted(row for batch in batches for row in batch) == sorted(rows.train)
    for step in (0, 1, rows.batches_per_epoch, rows.batches_per_epoch + 1):
        assert rows.examples(step) == sum(len(rows.batch(each)) for each in range(step))


def test_validation_rows_are_drawn_from_all_of_them(task, monkeypatch):
    """A split that is sorted by label would otherwise be looked at by one label alone."""
    monkeypatch.setattr("softprompt.methods.token_rows.VALIDATION_ROWS", 8)
    ordered = sorted(toy_rows(60, 1), key=lambda row: row["label"])
    splits = {"train": toy_rows(80), "validation": ordered, "test": toy_rows(20, 2)}
    found = TokenRows(tiny_backbone("llama"), load_task(splits), 0, 8).validation
    assert {row.gold for row in found} == {0, 1}
    assert len(found) == 8


def test_a_long_answer_and_virtual_tokens_have_room_behind_a_long_row():
    backbone = tiny_backbone("gpt2")
    rows = [{"text": "word " * 900 + str(n), "label": "ab"[n % 2]} for n in range(60)]
    word = "long " * 16
    task = load_task(rows, words={"a": word + "yes", "b": word + "no"})
    answer = len(backbone.tokenizer.encode(f" {word}yes", add_special_tokens=False))
    (row,) = TokenRows(backbone, task, 0, front=7).read(task.splits["test"][:1])
    assert answer > 16
    assert len(row.ids) + 7 + answer <= backbone.max_positions


def test_the_order_is_the_seed_s(task, rows):
    again, other = (TokenRows(tiny_backbone("llama"), task, seed, 8) for seed in (0, 1))
    assert [again.batch(step) for step in range(3)] == [rows.batch(step) for step in range(3)]
    assert [other.batch(step) for step in range(3)] != [rows.batch(step) for step in range(3)]


def test_rows_without_a_label_are_read_too(rows):
    (row,) = rows.read([Example({"text": "a gripping film"})])
    assert row.gold == UNKNOWN


def test_the_vocabulary_is_what_stands_in_train_and_validation(rows):
    assert set(rows.vocabulary()) == {token for row in (*rows.train, *rows.validation) for token in row.ids}


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_task_without_rows_is_refused(task, split):
    lacking = replace(task, splits={**task.splits, split: ()})
    with pytest.raises(DataError, match=f"has no {split} rows"):
        TokenRows(tiny_backbone("llama"), lacking, 0)


def test_rows_begin_in_the_first_column():
    ids, mask = padded([(5, 6, 7), (8,)], 2, torch.device("cpu"))
    assert ids.tolist() == [[5, 6, 7], [8, 2, 2]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]

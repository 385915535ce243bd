"""Examples and tasks as values."""

import dataclasses

import pytest

from softprompt.errors import UnknownNameError
from softprompt.tasks.load import load_task
from softprompt.tasks.task import Example, hash_rows


@pytest.fixture
def task():
    made = [{"text": f"row {n}", "label": "ab"[n % 2]} for n in range(10)]
    return load_task({"train": made, "validation": made[:2], "test": made[5:]}, name="toy")


def test_equal_texts_have_equal_keys_in_any_order_of_columns():
    assert Example({"a": "1", "b": "2"}, "x").key == Example({"b": "2", "a": "1"}, None).key


def test_an_unknown_split_offers_the_nearest(task):
    for ask in (task.rows, task.overlap, task.label_counts):
        with pytest.raises(UnknownNameError, match=r"unknown split `valid`; did you mean `validation`\?"):
            ask("valid")


def test_a_task_is_frozen(task):
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.name = "other"


def test_overlap_of_test_counts_train_and_validation(task):
    assert task.overlap("test") == (0, 1, 2, 3, 4)
    assert task.overlap("validation") == (0, 1)
    assert task.overlap("train") == ()


def test_the_description_says_what_there_is(task):
    text = task.describe()
    assert text.startswith("toy: classification, 2 labels, data ")
    assert "  train           10 rows (given): a 5, b 5" in text
    assert '  template   "{bos}{soft}Text: {text}\\nLabel:"' in text
    assert "  note: 2 of 2 rows of validation also stand in train" in text
    assert task.summary()["splits"]["test"] == {"rows": 5, "given": True, "overlap": 5, "labels": {"a": 2, "b": 3}}


def test_the_hash_sees_split_field_and_label():
    def hashed(split="train", field="text", label="x"):
        return hash_rows({split: [Example({field: "a"}, label)]})

    assert hashed() == hashed()
    assert len({hashed(), hashed(split="test"), hashed(field="t"), hashed(label="y")}) == 4

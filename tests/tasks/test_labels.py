"""From cells to labels, and what is said of them."""

import pytest

from softprompt.errors import DataError
from softprompt.tasks import remarks
from softprompt.tasks.labels import infer_labels, label_of


@pytest.mark.parametrize(
    ("value", "label"),
    [(" spam ", "spam"), (3, "3"), (True, "true"), (False, "false"), (2.0, "2"), ("0", "0"), ("é", "é")],
)
def test_cells_become_labels(value, label):
    assert label_of(value, "label", "here") == label


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "here: the label column `y` is empty; label the row or take it out"),
        ("  ", "here: the label column `y` is empty"),
        (float("nan"), "here: the label column `y` is empty"),
        (0.5, "here: the label column `y` holds 0.5; labels are words or whole numbers"),
        (float("inf"), "here: the label column `y` holds inf"),
        (["a"], "here: the label column `y` holds a list, not one label"),
    ],
)
def test_cells_that_are_no_labels(value, message):
    with pytest.raises(DataError, match=message):
        label_of(value, "y", "here")


def test_labels_are_sorted_numbers_as_numbers():
    assert infer_labels({"train": ["b", "10", "a", "9", "-1"]}, "toy", "y") == ("-1", "9", "10", "a", "b")


def test_the_order_of_a_source_is_kept_without_names_that_train_lacks():
    assert infer_labels({"train": ["a", "c"]}, "toy", "y", ("c", "b", " a")) == ("c", "a")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": ["a", "a"]}, "`toy` has the one label `a` in the column `y` of train; .* at least two"),
        ({"train": []}, "`toy` has no rows in the column `y` of train"),
        (
            {"train": ["a", "b"], "test": ["c", "a", "c"]},
            "label `c` is in 2 row.* of test and never in train; add rows",
        ),
        (
            {"train": ["a", "b"], "validation": ["c", "d", "d"]},
            r"label `d` .* of validation .* \(and 1 more such labels\)",
        ),
        ({"train": ["0.5", "1.5", "2"]}, "`y` holds numbers such as 0.5, not labels"),
        ({"train": [f"text {n}" for n in range(50)]}, "`y` has 50 different values in 50 rows, too many to be labels"),
        ({"train": [str(n % 25) for n in range(50)]}, "`y` has 25 different values in 50 rows, too many to be labels"),
    ],
)
def test_columns_that_are_no_labels(values, message):
    with pytest.raises(DataError, match=message):
        infer_labels(values, "toy", "y")


def test_few_rows_of_many_labels_are_labels_all_the_same():
    assert len(infer_labels({"train": [f"intent {n}" for n in range(20)]}, "toy", "y")) == 20


def test_imbalance_is_said_with_its_figures():
    said = remarks.labels(["ham"] * 80 + ["spam"] * 20, ["ham", "spam"])
    assert said == [
        "the labels of train are uneven: `ham` has 80 rows (80.0%), `spam` has 20; "
        "always answering `ham` is right that often"
    ]
    assert not remarks.labels(["ham"] * 75 + ["spam"] * 25, ["ham", "spam"])


def test_numbers_and_twins_are_said():
    assert remarks.labels(["0", "1"], ["0", "1"]) == [
        'the labels are numbers (0, 1): naming them helps the model, with words={"0": "...", "1": "..."}'
    ]
    assert remarks.labels(["Spam", "spam"], ["Spam", "spam"]) == [
        "the labels `Spam` and `spam` differ only in letter case and count as two"
    ]

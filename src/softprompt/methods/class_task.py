"""From X and y to a task: classes of any type become labels, and a part of the rows chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from softprompt.errors import DataError, TemplateError
from softprompt.methods.text_table import TextTable
from softprompt.registry import unknown_name
from softprompt.shapes import Int
from softprompt.tasks.load import TEST_ROWS, TEST_SHARE, VALIDATION_ROWS, VALIDATION_SHARE
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.splits import carve, source_of_chance
from softprompt.tasks.task import Example, Task, hash_rows
from softprompt.tasks.template import Template


class Written(NamedTuple):
    """How rows and classes are written for the backbone; the parameters of `PromptClassifier`, as they were given."""

    classes: np.ndarray
    text: Sequence[str] | None = None
    template: str | None = None
    label: str = "label"
    label_words: Mapping[Any, str] | None = None
    scoring: str = "trie"
    max_tokens: int | None = None


def classes_of(y: Any) -> tuple[np.ndarray, Int[np.ndarray, " N"]]:
    """Return the values of y, sorted, and the place of each row's among them.

    >>> classes_of([True, False, True])[1].tolist()
    [1, 0, 1]

    Raises:
        DataError: y is missing, has no order, or one class only.
        ValueError: y is no column, has missing values, or numbers that are no classes.
    """
    if y is None:
        raise DataError("PromptClassifier requires y to be passed, but the target y is None; give each row its class")
    values = column_or_1d(y, warn=True)
    assert_all_finite(values, input_name="y")
    try:
        check_classification_targets(values)
        classes, codes = np.unique(values, return_inverse=True)
    except TypeError as error:
        kinds = sorted({type(value).__name__ for value in values})
        raise DataError(f"y holds values that have no order ({', '.join(kinds)}); give classes of one type") from error
    if len(classes) < 2:
        only = f"one class, `{classes[0]}`" if len(classes) else "0 sample(s)"
        raise DataError(f"y has {only}; a classifier needs rows of at least two classes")
    return classes, codes


def label_name(value: Any) -> str:
    """Return what a class is called in the prompt's file, and by default shown as.

    >>> label_name(np.float64(3)), label_name(np.True_), label_name("card_arrival")
    ('3', 'true', 'card_arrival')
    """
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, bool):
        return str(plain).lower()
    return str(int(plain)) if isinstance(plain, float) and plain.is_integer() else str(plain)


def task_of(
    table: TextTable, codes: Int[np.ndarray, " N"], written: Written, *, seed: int, judged: bool
) -> tuple[Task, tuple[str, ...]]:
    """Return the task that rows and their classes make, and the columns that it shows.

    Rows for choosing are set aside as `load_task` does it; test rows only where a report card will judge by them.

    Args:
        table: the rows, N of them.
        codes: the class of each.
        written: how they are written.
        seed: of the division.
        judged: set test rows aside too.

    Raises:
        DataError: columns, cells or label words that cannot be used.
        TemplateError: the template cannot be read, or shows a column that there is not.
        UnknownNameError: label words for a class that is not in y.
    """
    pattern = None if written.template is None else Template(written.template, written.max_tokens)
    names = table.settle(written.text if written.text is not None or pattern is None else pattern.fields)
    template = pattern or Template.default(names, written.label, written.max_tokens)
    for field in template.fields:
        if field not in names:
            shown = ", ".join(f"`{name}`" for name in names)
            raise TemplateError(f"the template asks for `{{{field}}}`, and the columns of text are {shown}")
    readout = _readout(written, template)
    texts = table.texts(names)
    rows = tuple(Example(text, readout.labels[code]) for text, code in zip(texts, codes, strict=True))
    splits, division = _divided(rows, seed, judged=judged)
    task = Task(
        "classifier", "classification", splits, frozenset(), template, readout, (), hash_rows(splits), division,
        seed=seed, default_template=pattern is None,
    )  # fmt: skip
    return task, names


def _readout(written: Written, template: Template) -> LabelWords:
    labels = [label_name(value) for value in written.classes]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise DataError(f"two classes of y are both called `{twice}`; give them other values")
    words = {_known(value, written.classes, labels): text for value, text in (written.label_words or {}).items()}
    space = not template.pattern.endswith((" ", "\n"))
    return LabelWords.from_labels(labels, words, written.scoring, leading_space=space)  # type: ignore[arg-type]


def _known(value: Any, classes: np.ndarray, labels: Sequence[str]) -> str:
    name = label_name(value)
    if name not in labels:
        raise unknown_name("class in label_words", name, labels)
    return name


def _divided(
    rows: tuple[Example, ...], seed: int, *, judged: bool
) -> tuple[dict[str, tuple[Example, ...]], tuple[str, ...]]:
    said = []
    splits = {}
    parts = [("test", TEST_SHARE, TEST_ROWS)] * judged + [("validation", VALIDATION_SHARE, VALIDATION_ROWS)]
    kept = rows
    for split, share, at_most in parts:
        before = len(kept)
        kept, splits[split] = carve(kept, share, at_most, source_of_chance(seed, split))
        said.append(f"{split} is {len(splits[split]):,} of {before:,} rows, set aside with seed {seed}")
    return {"train": kept, **splits}, tuple(said)

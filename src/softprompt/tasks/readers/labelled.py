"""Rows with a label column: one label of several, any number of labels, or a number."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from softprompt.errors import DataError
from softprompt.tasks import remarks
from softprompt.tasks.columns import CLASSIFICATION as CLASSES
from softprompt.tasks.columns import NUMBERS, Columns, Usual, choose
from softprompt.tasks.labels import infer_labels, label_of, ordered
from softprompt.tasks.readers.reading import Asked, Examples, Kind, Reading, cell, no_labels, tables_of
from softprompt.tasks.readout import LabelWords, Readout
from softprompt.tasks.readout_kinds import Scalar, YesNo
from softprompt.tasks.sources.table import RawData, Table, text_of
from softprompt.tasks.task import Example
from softprompt.tasks.template import Template

SEPARATOR = "|"
"""What stands between the labels of a cell, where a row has several and the file no lists."""

Value = Callable[[Any, str, str], Any]


def examples_of(table: Table, columns: Columns, value: Value = label_of) -> Examples:
    """Turn the rows of a table into examples.

    Args:
        table: the rows.
        columns: which of its columns are text and label.
        value: from a cell, its column and its place to the answer.

    Raises:
        DataError: a row lacks a column, its label is empty, or a value is not text.
    """
    return tuple(_example(row, columns, table.where(index), value) for index, row in enumerate(table.rows))


def _example(row: Any, columns: Columns, where: str, value: Value) -> Example:
    cells = {column: cell(row, column, where) for column in (*columns.texts, columns.label)}
    fields = {column: text_of(cells[column], column, where) for column in columns.texts}
    return Example(fields, value(cells[columns.label], columns.label, where))


def _read(raw: RawData, asked: Asked, value: Value, names: Usual = CLASSES) -> Reading:
    columns = choose(raw, asked.text, asked.label, asked.template, names)
    splits = {split: examples_of(table, columns, value) for split, table in tables_of(raw)}
    template = asked.template or Template.default(columns.texts, columns.label, asked.max_tokens)
    return Reading(splits, template, columns.label, remarks.guesses(columns))


def _read_one(raw: RawData, asked: Asked) -> Reading:
    return _read(raw, asked, label_of)


def _labels_of_one(raw: RawData, reading: Reading) -> tuple[str, ...]:
    names = raw.tables["train"].names.get(reading.label, ())
    values = {split: [str(row.label) for row in rows] for split, rows in reading.splits.items()}
    return infer_labels(values, raw.name, reading.label, names)


def _label_words(reading: Reading, labels: tuple[str, ...], train: Examples, asked: Asked) -> Readout:
    return LabelWords.from_labels(labels, asked.words, asked.scoring, leading_space=reading.leading_space)


CLASSIFICATION = Kind("classification", _read_one, _labels_of_one, _label_words, by_label=True)
"""One label of several."""


def labels_in(value: object, column: str, where: str) -> tuple[str, ...]:
    """Return a cell as the set of its labels, sorted: a list, or text with `|` between them; nothing means none.

    >>> labels_in("toxic | rude", "labels", "here")
    ('rude', 'toxic')

    Raises:
        DataError: a label in it is empty, or no label at all.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ()
    if isinstance(value, str):
        value = value.split(SEPARATOR) if value.strip() else []
    found = value if isinstance(value, list | tuple | set | frozenset) else [value]
    return tuple(sorted({label_of(item, column, where) for item in found}))


def _read_many(raw: RawData, asked: Asked) -> Reading:
    return _read(raw, asked, labels_in)


def _labels_of_many(raw: RawData, reading: Reading) -> tuple[str, ...]:
    known = {label for row in reading.splits["train"] for label in row.labels}
    if not known:
        raise DataError(f"`{raw.name}` has no label in any row of train, column `{reading.label}`; label some rows")
    for split, rows in reading.splits.items():
        for row in rows:
            for label in row.labels:
                if label not in known:
                    raise DataError(
                        f"`{raw.name}`: the label `{label}` is in {split} and never in train; "
                        "add rows of it to train, or take it out"
                    )
    names = [name.strip() for name in raw.tables["train"].names.get(reading.label, ())]
    return tuple(name for name in names if name in known) or ordered(known)


def _yes_no(reading: Reading, labels: tuple[str, ...], train: Examples, asked: Asked) -> Readout:
    return YesNo.from_labels(labels, asked.words, leading_space=reading.leading_space)


MULTI_LABEL = Kind("multi-label", _read_many, _labels_of_many, _yes_no)
"""Any number of labels, each for itself."""


def number_of(value: object, column: str, where: str) -> float:
    """Return a cell as the number to predict.

    >>> number_of("3.5", "score", "here")
    3.5

    Raises:
        DataError: it is empty, or no finite number.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        raise DataError(f"{where}: the column `{column}` is empty; give the row its number, or take it out")
    try:
        found = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise DataError(f"{where}: the column `{column}` holds `{value}`, no number to predict; correct the row")
    return found


def _read_number(raw: RawData, asked: Asked) -> Reading:
    return _read(raw, asked, number_of, NUMBERS)


def _scalar(reading: Reading, labels: tuple[str, ...], train: Examples, asked: Asked) -> Readout:
    space = reading.leading_space
    if asked.bounds is None:
        return Scalar.from_values(_numbers(train), asked.words, leading_space=space)
    low, high = asked.bounds
    shaped = Scalar.from_values([0.0, 1.0], asked.words, leading_space=space)
    scalar = Scalar(float(low), float(high), shaped.words)
    for number in _numbers(train):
        scalar.share(number)
    return scalar


def _numbers(rows: Sequence[Example]) -> list[float]:
    return [row.label for row in rows if isinstance(row.label, float)]


REGRESSION = Kind("regression", _read_number, no_labels, _scalar)
"""A number."""

"""What every source hands over: rows with named columns, each row with the place it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from softprompt.errors import DataError
from softprompt.registry import unknown_name

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""What a split may be called, and the split that it is."""


def split_named(name: str) -> str:
    """Return the split that a name means.

    >>> split_named("val")
    'validation'

    Raises:
        UnknownNameError: no split is called so.
    """
    if name.lower() not in SPLIT_NAMES:
        raise unknown_name("split", name, SPLIT_NAMES)
    return SPLIT_NAMES[name.lower()]


@dataclass(frozen=True)
class Table:
    """The rows of one file, or of one split of a data set.

    Args:
        origin: what the user would call it, for messages: a file, or a data set and its split.
        columns: the column names, in the order of the source.
        rows: one mapping from column to value a row; a column may be missing from a row.
        numbers: where each row starts in its source, counted from 1.
        unit: what `numbers` counts: `line` or `row`.
        names: for columns whose values are names of numbered classes, those names in the order of the numbers.
    """

    origin: str
    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]
    numbers: Sequence[int]
    unit: str = "line"
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def where(self, index: int) -> str:
        """Return the place of row `index` as a message names it.

        >>> Table("a.csv", ("text",), [{"text": "x"}], [2]).where(0)
        '`a.csv`, line 2'
        """
        return f"`{self.origin}`, {self.unit} {self.numbers[index]}"


@dataclass(frozen=True)
class RawData:
    """All that a source has: its tables by split.

    Args:
        name: a short name for the task.
        tables: the splits among `train`, `validation` and `test` that there are.
        divided: whether the source itself says which rows are train and test; if not, all rows are under `train`.
        notes: what the reader of a report should know about how the rows were read.
    """

    name: str
    tables: Mapping[str, Table]
    divided: bool
    notes: tuple[str, ...] = ()


def table_of(origin: str, records: Sequence[tuple[int, Mapping[str, Any]]], unit: str = "line") -> Table:
    """Build a table from numbered records; its columns are those of all records, in order of appearance.

    Raises:
        DataError: there are no records.
    """
    if not records:
        raise DataError(f"`{origin}` has no rows; give it at least a few rows of each label")
    columns = dict.fromkeys(column for _, values in records for column in values)
    return Table(origin, tuple(columns), [values for _, values in records], [number for number, _ in records], unit)


def text_of(value: object, column: str, where: str) -> str:
    """Return a cell as the text that a template shows; a missing value is empty text.

    >>> text_of(3, "stars", "`a.csv`, line 2")
    '3'

    Args:
        value: what the source holds there.
        column: its column, for the message.
        where: its row, for the message.

    Raises:
        DataError: the value is a list or an object, or text that no UTF-8 file can hold.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if not isinstance(value, str):
        kind = type(value).__name__
        raise DataError(f"{where}: the column `{column}` holds a {kind}, not text; put its words into one text column")
    if not value.isascii():
        _refuse_half_characters(value, column, where)
    return value


def _refuse_half_characters(value: str, column: str, where: str) -> None:
    """Refuse lone surrogates, which JSON escapes can carry and no tokenizer takes."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        half = value[error.start]
        raise DataError(f"{where}: the column `{column}` holds half a character ({half!a}); repair the text") from error

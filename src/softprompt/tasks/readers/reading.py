"""What every reader is given and what it hands over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from softprompt.errors import DataError
from softprompt.tasks.readout import Readout, Scoring
from softprompt.tasks.sources.table import RawData, Table
from softprompt.tasks.task import Example
from softprompt.tasks.template import Template

SPLITS = ("train", "validation", "test")

Examples = tuple[Example, ...]


@dataclass(frozen=True)
class Asked:
    """What the user said of a task, all of it optional; meanings as in `load_task`."""

    text: str | Sequence[str] | None = None
    label: str | None = None
    template: Template | None = None
    words: Mapping[str, str] | None = None
    scoring: Scoring = "trie"
    max_tokens: int | None = None
    bounds: tuple[float, float] | None = None
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class Reading:
    """The rows of a source, read as one kind of task.

    Args:
        splits: examples by split, as the source divides them.
        template: how a row is written.
        label: the column, or the columns, with the answer.
        notes: how the rows were read, where that was not said.
        tagged: the column whose words are tagged, where some are.
    """

    splits: dict[str, Examples]
    template: Template
    label: str
    notes: list[str] = field(default_factory=list)
    tagged: str = ""

    @property
    def leading_space(self) -> bool:
        """Whether an answer needs a space in front of it."""
        return not self.template.pattern.endswith((" ", "\n"))


@dataclass(frozen=True)
class Kind:
    """A kind of task.

    Args:
        name: as in `Task.kind`.
        read: from a source to rows.
        labels: the answers that the rows have to choose from, in order; none where they do not choose.
        readout: from the rows, the labels and the train rows as divided to what reads the answers.
        by_label: whether every row has one of few labels, so that drawing can be stratified by it.
    """

    name: str
    read: Callable[[RawData, Asked], Reading]
    labels: Callable[[RawData, Reading], tuple[str, ...]]
    readout: Callable[[Reading, tuple[str, ...], Examples, Asked], Readout]
    by_label: bool = False


def no_labels(raw: RawData, reading: Reading) -> tuple[str, ...]:
    """Return no labels: answers are numbers or text."""
    return ()


def tables_of(raw: RawData) -> Iterator[tuple[str, Table]]:
    """Yield the splits that tasks have, in order, with their tables."""
    return ((split, raw.tables[split]) for split in SPLITS if split in raw.tables)


def cell(row: Mapping[str, Any], column: str, where: str) -> Any:
    """Return what a row holds in a column.

    Raises:
        DataError: the row has no such column.
    """
    if column not in row:
        there = ", ".join(f"`{c}`" for c in row) or "nothing"
        raise DataError(f"{where} has no `{column}`; it has {there}; add it or take the row out")
    return row[column]


def train_table(raw: RawData) -> Table:
    """Return the table whose columns and cells stand for all: that of train, else the first."""
    return raw.tables.get("train") or next(iter(raw.tables.values()))

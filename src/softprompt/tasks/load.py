"""From a source to a task: columns, labels, splits, and everything worth saying about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from softprompt.errors import DataError
from softprompt.registry import unknown_name
from softprompt.tasks import remarks
from softprompt.tasks.columns import Columns, choose
from softprompt.tasks.labels import infer_labels, label_of
from softprompt.tasks.readout import LabelWords, Scoring
from softprompt.tasks.sources.resolve import Source, resolve
from softprompt.tasks.sources.table import RawData, Table, text_of
from softprompt.tasks.splits import carve, few_shots, source_of_chance
from softprompt.tasks.task import Example, Rows, Task, hash_rows
from softprompt.tasks.template import Template

SPLITS = ("train", "validation", "test")
TEST_SHARE, TEST_ROWS = 0.2, 2_000
VALIDATION_SHARE, VALIDATION_ROWS = 0.15, 1_000

Examples = tuple[Example, ...]


def load_task(
    source: Source,
    *,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    template: str | None = None,
    words: Mapping[str, str] | None = None,
    scoring: Scoring = "trie",
    shots: int | None = None,
    seed: int = 0,
    name: str | None = None,
    max_tokens: int | None = None,
) -> Task:
    """Read a classification task.

    Splits that the source has are used as they are. A missing test split is a fifth of the train rows (at most
    2,000), set aside first; a missing validation split is 15 % of the rest (at most 1,000, at least one a label
    where possible). Both are seeded, stratified by label, and share no text with what remains.

    >>> rows = [{"text": f"{word} {n}", "label": word} for word in ("good", "bad") for n in range(10)]
    >>> task = load_task(rows)
    >>> task.labels, {split: len(rows) for split, rows in task.splits.items()}
    (('bad', 'good'), {'train': 14, 'validation': 2, 'test': 4})

    Args:
        source: a packaged name (`sms-spam`), a file, a folder of split files, a saved data set, a hub id, or rows.
        text: the column or columns that are shown to the model; by default guessed from their usual names.
        label: the column with the answer; by default guessed.
        template: the pattern of a row; its fields are then the text columns.
        words: what the model would write for a label, where that is not its name.
        scoring: `trie` or `full`.
        shots: train on this many different texts of each label, drawn by `seed`; validation and test stay.
        seed: decides every draw.
        name: the task's name; by default the source's.
        max_tokens: longest row in tokens.

    Raises:
        DataError: rows, columns or labels that cannot be used.
        TemplateError: a template that cannot be read, or that names no column of the source.
        UnknownNameError: `words` names no label, or the source is of no known kind.
        ConfigError: `shots` is below 1.
        MissingExtraError: the source needs an extra that is not installed.
        StorageError: the source may not be read.
    """
    raw = resolve(source)
    _require_train(raw)
    pattern = None if template is None else Template(template, max_tokens)
    columns = choose(raw, text, label, pattern)
    splits: dict[str, Examples] = {s: examples_of(raw.tables[s], columns) for s in SPLITS if s in raw.tables}
    names = raw.tables["train"].names.get(columns.label, ())
    labels = infer_labels(_label_lists(splits), raw.name, columns.label, names)
    notes = [*raw.notes, *remarks.guesses(columns), *remarks.oddities(splits)]
    divided, division = _divide(splits, seed, raw)
    if shots is not None:
        divided["train"] = few_shots(divided["train"], shots, labels, source_of_chance(seed, "shots"))
        division.append(f"train is {shots} different texts of each label, drawn with seed {seed}")
    shown = pattern or Template.default(columns.texts, columns.label, max_tokens)
    spaced = not shown.pattern.endswith((" ", "\n"))
    task = Task(
        name=name or raw.name,
        kind="classification",
        splits=divided,
        given=frozenset(s for s in splits if raw.divided and divided[s] is splits[s]),
        template=shown,
        readout=LabelWords.from_labels(labels, words, scoring, leading_space=spaced),
        notes=(*notes, *remarks.labels(_label_lists(divided)["train"], labels)),
        data_hash=hash_rows(divided),
        division=tuple(division),
        shots=shots,
    )
    return replace(task, notes=(*task.notes, *remarks.overlaps(task)))


def load_split(
    source: Source, split: str, template: Template, labels: Sequence[str], *, label: str | None = None
) -> tuple[Example, ...]:
    """Read labelled rows for judging a prompt that exists already; no train split is needed.

    Args:
        source: as for `load_task`; an undivided source gives all its rows, whatever `split` says.
        split: `train`, `validation` or `test`.
        template: the prompt's template: its fields are the text columns.
        labels: the prompt's labels.
        label: the column with the answer; by default guessed.

    Raises:
        DataError: rows or columns that cannot be used, or a label that the prompt does not know.
        TemplateError: the source lacks a field of the template.
        UnknownNameError: the source has no such split.
    """
    raw = resolve(source)
    chosen = split if raw.divided else "train"
    if chosen not in raw.tables:
        raise unknown_name("split", split, raw.tables)
    table = raw.tables[chosen]
    rows = examples_of(table, choose(raw, None, label, template))
    for index, row in enumerate(rows):
        if row.label not in labels:
            raise DataError(
                f"{table.where(index)}: the label `{row.label}` is none that the prompt knows ({', '.join(labels)}); "
                "correct it, or take the row out"
            )
    return rows


def examples_of(table: Table, columns: Columns) -> tuple[Example, ...]:
    """Turn the rows of a table into examples.

    Raises:
        DataError: a row lacks a column, its label is empty, or a value is not text.
    """
    return tuple(_example(row, columns, table.where(index)) for index, row in enumerate(table.rows))


def _example(row: Mapping[str, Any], columns: Columns, where: str) -> Example:
    for column in (*columns.texts, columns.label):
        if column not in row:
            there = ", ".join(f"`{c}`" for c in row) or "nothing"
            raise DataError(f"{where} has no `{column}`; it has {there}; add it or take the row out")
    fields = {column: text_of(row[column], column, where) for column in columns.texts}
    return Example(fields, label_of(row[columns.label], columns.label, where))


def _require_train(raw: RawData) -> None:
    if "train" not in raw.tables:
        there = ", ".join(f"`{s}`" for s in raw.tables)
        raise DataError(f"`{raw.name}` has no train split, only {there}; add the rows to learn from as train")


def _label_lists(splits: Mapping[str, Rows]) -> dict[str, list[str]]:
    return {split: [row.label or "" for row in rows] for split, rows in splits.items()}


def _divide(splits: Mapping[str, Examples], seed: int, raw: RawData) -> tuple[dict[str, Examples], list[str]]:
    """Carve the splits that are missing out of train: test first, then validation; say so."""
    divided, said = dict(splits), []
    for split, share, at_most in (("test", TEST_SHARE, TEST_ROWS), ("validation", VALIDATION_SHARE, VALIDATION_ROWS)):
        if split in splits:
            continue
        before = len(divided["train"])
        taken = {row.key for other, rows in splits.items() if other != "train" for row in rows}
        free = [row for row in divided["train"] if row.key not in taken]  # a text of a given split stays in train
        _, divided[split] = carve(free, share, at_most, source_of_chance(seed, split)) if free else ((), ())
        aside = {row.key for row in divided[split]}
        divided["train"] = tuple(row for row in divided["train"] if row.key not in aside)
        if not divided[split]:
            raise DataError(
                f"`{raw.name}` has {len(splits['train'])} train rows, too few to set aside a {split} split; "
                f"give more different texts of each label (at least 3), or a {split} split of your own"
            )
        said.append(
            f"{split} is {len(divided[split]):,} of {before:,} train rows, "
            f"set aside with seed {seed}, stratified by label, no text on both sides"
        )
    return {split: divided[split] for split in SPLITS}, said

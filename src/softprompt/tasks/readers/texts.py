"""Rows whose answer is text: generation, and extraction of answers from a context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from softprompt.errors import DataError
from softprompt.tasks import remarks
from softprompt.tasks.columns import GENERATION, choose, usual
from softprompt.tasks.free_text import Text
from softprompt.tasks.readers.reading import Asked, Examples, Kind, Reading, cell, no_labels, tables_of, train_table
from softprompt.tasks.readout import Readout
from softprompt.tasks.sources.table import RawData, Table, text_of
from softprompt.tasks.task import Example
from softprompt.tasks.template import Template

REFERENCES = ("references", "refs", "targets", "all_targets")
CONTEXT, QUESTION, ANSWERS = ("context", "passage"), ("question",), ("answers", "answer")


def references_column(table: Table) -> str | None:
    """Return the column with all the accepted targets of a row, if there is one."""
    found = usual(REFERENCES, table.columns)
    return found if found and any(isinstance(row.get(found), list) for row in table.rows) else None


def _read_targets(raw: RawData, asked: Asked) -> Reading:
    columns = choose(raw, asked.text, asked.label, asked.template, GENERATION)
    splits = {}
    for split, table in tables_of(raw):
        accepted = references_column(table)
        splits[split] = tuple(
            _targeted(row, columns.texts, columns.label, accepted, table.where(i)) for i, row in enumerate(table.rows)
        )
    template = asked.template or _template(columns.texts, columns.label, asked.max_tokens)
    return Reading(splits, template, columns.label, remarks.guesses(columns, "target"))


def _template(texts: Sequence[str], label: str, max_tokens: int | None) -> Template:
    """Lines with names where several texts have to be told apart; one text stands by itself."""
    shown = Template.default(texts, label, max_tokens)
    if len(texts) > 1:
        return shown
    answer = shown.pattern.rpartition("\n")[2]
    return Template(f"{{bos}}{{soft}}{{{texts[0]}}}\n{answer}", max_tokens)


def _targeted(row: Mapping[str, Any], texts: Sequence[str], label: str, accepted: str | None, where: str) -> Example:
    fields = {column: text_of(cell(row, column, where), column, where) for column in texts}
    references = _texts(row.get(accepted), accepted, where) if accepted else ()
    target = text_of(row.get(label), label, where).strip() or (references[0] if references else "")
    if not target:
        raise DataError(f"{where}: the target column `{label}` is empty; write the text to learn, or take the row out")
    return Example(fields, target, references)


def _texts(value: Any, column: str, where: str) -> tuple[str, ...]:
    listed = value if isinstance(value, list | tuple) else [] if value is None else [value]
    found = (text_of(item, column, where).strip() for item in listed)
    return tuple(dict.fromkeys(text for text in found if text))


def _text_readout(reading: Reading, labels: tuple[str, ...], train: Examples, asked: Asked) -> Readout:
    targets = [row.label for row in train if isinstance(row.label, str)]
    fitted = Text.for_targets(targets, leading_space=reading.leading_space)
    return fitted if asked.max_new_tokens is None else Text(asked.max_new_tokens, fitted.stop, fitted.lead)


GENERATION_KIND = Kind("generation", _read_targets, no_labels, _text_readout)
"""Text for text."""


def extraction_columns(table: Table) -> tuple[str, str, str] | None:
    """Return the columns of context, question and answers, None where a table lacks one."""
    context, question, answers = (usual(names, table.columns) for names in (CONTEXT, QUESTION, ANSWERS))
    return (context, question, answers) if context and question and answers else None


def answers_in(value: Any, column: str, where: str) -> tuple[str, ...]:
    """Return the accepted answers of a cell: text, a list of texts, or an object with the list `text`.

    >>> answers_in({"text": ["Denver", "Denver"], "answer_start": [3, 40]}, "answers", "here")
    ('Denver',)
    """
    return _texts(value.get("text") if isinstance(value, Mapping) else value, column, where)


def _read_answers(raw: RawData, asked: Asked) -> Reading:
    found = extraction_columns(train_table(raw))
    if found is None and asked.label is None:
        there = ", ".join(f"`{c}`" for c in train_table(raw).columns)
        raise DataError(
            f"`{raw.name}` has the columns {there}, and extraction needs `context`, `question` and `answers`; "
            "rename them, or name the answers with label="
        )
    label = asked.label or (found[2] if found else "")
    texts = asked.template.fields if asked.template else _shown(asked, found)
    splits = {
        split: tuple(_answered(row, texts, label, table.where(i)) for i, row in enumerate(table.rows))
        for split, table in tables_of(raw)
    }
    blank = sum(not row.label for rows in splits.values() for row in rows)
    notes = [f"{blank:,} row(s) have no answer in their context: the right answer there is no text"] if blank else []
    template = asked.template or Template.default(texts, "answer", asked.max_tokens)
    return Reading(splits, template, label, notes)


def _shown(asked: Asked, found: tuple[str, str, str] | None) -> tuple[str, ...]:
    if asked.text is not None:
        return (asked.text,) if isinstance(asked.text, str) else tuple(asked.text)
    return found[:2] if found else ("context", "question")


def _answered(row: Mapping[str, Any], texts: Sequence[str], label: str, where: str) -> Example:
    fields = {column: text_of(cell(row, column, where), column, where) for column in texts}
    accepted = answers_in(cell(row, label, where), label, where)
    return Example(fields, accepted[0] if accepted else "", accepted if len(accepted) > 1 else ())


EXTRACTION = Kind("extraction", _read_answers, no_labels, _text_readout)
"""Answers that stand in a context, written out as text."""

"""Rows of a file or of standard input as they come, for classifying more than fits in memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from softprompt.errors import ConfigError, DataError
from softprompt.registry import nearest, unknown_name
from softprompt.tasks.sources.files import read_file, refuse_not_text
from softprompt.tasks.sources.records import TEXT_FORMATS, decoded_lines, opened, records
from softprompt.tasks.sources.table import Table, text_of

FORMATS = ("csv", "tsv", "jsonl", "lines")
Shown = Callable[[Mapping[str, Any], str], Mapping[str, Any]]


def _as_it_is(row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    return row


def read_rows(
    source: str | Path | BinaryIO, text_fields: Sequence[str], *, form: str | None = None, shown: Shown = _as_it_is
) -> Iterator[dict[str, str]]:
    """Yield the rows of a file, or of standard input, in their order; those of text files in constant memory.

    CSV, TSV, JSON lines and Parquet keep all their columns; any other file is plain text, a row a line.

    Args:
        source: a path, `-` for standard input, or an open binary stream.
        text_fields: the columns that every row must have; plain text has one, which gets the line.
        form: `csv`, `tsv`, `jsonl` or `lines`; by default told from the file's suffix, `lines` without one.
        shown: from a row and its place to the row with text in its text columns, where they may hold lists.

    Yields:
        The row's values by column, as text.

    Raises:
        DataError: no such file, a workbook or the like, a line that is not UTF-8 or does not parse, a missing column.
        ConfigError: plain text is read where the template has several fields.
        UnknownNameError: `form` is none of the four.
        StorageError: the file may not be read.
        MissingExtraError: a Parquet file, and the `data` extra is not installed.
    """
    if form is None and (read := _table_at(source)) is not None:
        return (_texts(row, read.where(i), tuple(text_fields), shown) for i, row in enumerate(read.rows))
    chosen = form or _form_of(source)
    if chosen not in FORMATS:
        raise unknown_name("format", chosen, FORMATS)
    if chosen == "lines" and len(text_fields) != 1:
        asked = ", ".join(f"`{name}`" for name in text_fields)
        raise ConfigError(f"plain lines hold one text, and the template has {asked}; give CSV, TSV or JSON lines")
    return _rows(source, tuple(text_fields), chosen, shown)


def _table_at(source: str | Path | BinaryIO) -> Table | None:
    """Read a Parquet file whole; None for what is read line by line.

    Raises:
        DataError: the file is none of rows or lines, by its suffix.
    """
    if source == "-" or not isinstance(source, str | Path):
        return None
    path = Path(source)
    refuse_not_text(path)
    return read_file(path) if path.suffix.lower() == ".parquet" else None


def _form_of(source: str | Path | BinaryIO) -> str:
    if isinstance(source, str | Path) and source != "-":
        return TEXT_FORMATS.get(Path(source).suffix.lower(), "lines")
    return "lines"


def _rows(
    source: str | Path | BinaryIO, text_fields: tuple[str, ...], form: str, shown: Shown
) -> Iterator[dict[str, str]]:
    if source == "-":
        yield from _read(sys.stdin.buffer, "standard input", text_fields, form, shown)
    elif isinstance(source, str | Path):
        with opened(Path(source)) as stream:
            yield from _read(stream, str(source), text_fields, form, shown)
    else:
        yield from _read(source, str(getattr(source, "name", "the stream")), text_fields, form, shown)


def _read(
    stream: BinaryIO, name: str, text_fields: tuple[str, ...], form: str, shown: Shown
) -> Iterator[dict[str, str]]:
    if form == "lines":
        for line in decoded_lines(stream, name):
            yield {text_fields[0]: line.rstrip("\r\n")}
        return
    for number, values in records(stream, name, form):
        yield _texts(values, f"`{name}`, line {number}", text_fields, shown)


def _texts(row: Mapping[str, Any], where: str, text_fields: tuple[str, ...], shown: Shown) -> dict[str, str]:
    """Turn one row into text; a list or an object in a column that no template shows stays JSON."""
    values = shown(row, where)
    for field in text_fields:
        if field not in values:
            near = nearest(field, values)
            hint = f"did you mean `{near[0]}`?" if near else "rename it, or name another (`--text COLUMN`)"
            there, asked = (", ".join(f"`{c}`" for c in names) for names in (values, text_fields))
            raise DataError(f"{where} has no column `{field}`; it has {there}, and each row needs {asked}; {hint}")
    return {
        column: text_of(value, column, where) if column in text_fields else _kept(value, column, where)
        for column, value in values.items()
    }


def _kept(value: Any, column: str, where: str) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else text_of(value, column, where)

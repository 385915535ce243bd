"""Text files as records: CSV, TSV, JSON lines and plain lines, one at a time, each with its line number."""

from __future__ import annotations

import codecs
import csv
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from softprompt.errors import DataError, StorageError
from softprompt.progress import say
from softprompt.registry import nearest

Record = tuple[int, dict[str, Any]]

TEXT_FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
"""The file suffixes that are read here, and the format of each."""


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Say it well where the block may not look at `path`.

    Raises:
        StorageError: the system refuses.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot read `{path}`: {error.strerror or error}; check the path and its rights") from error


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, and say it well where that cannot be done.

    Raises:
        DataError: there is no such file; files beside it with a like name are offered.
        StorageError: the file may not be read.
    """
    with readable(path):
        if not path.exists():
            raise DataError(no_such_file(path))
        stream = path.open("rb")
    with stream:
        yield stream


def no_such_file(path: Path) -> str:
    """Return the sentence for a file that is not there, with those beside it that look like it."""
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(path.name, sorted(beside))
    hint = "did you mean " + " or ".join(f"`{name}`" for name in near) + "?" if near else "check the path"
    return f"there is no file `{path}`; {hint}"


def records(stream: Iterable[bytes], name: str, form: str) -> Iterator[Record]:
    """Yield the rows of a text file one after another, in constant memory.

    Args:
        stream: its lines, as bytes.
        name: what the user calls them, for messages.
        form: `csv`, `tsv` or `jsonl`.

    Yields:
        The line where the row starts, counted from 1, and its values by column.

    Raises:
        DataError: a line is not UTF-8, does not parse, or has another number of cells than the header.
    """
    readers: dict[str, Callable[[Iterator[str], str], Iterator[Record]]] = {
        "csv": _csv,
        "tsv": _tsv,
        "jsonl": _json_lines,
    }
    return readers[form](decoded_lines(stream, name), name)


def decoded_lines(stream: Iterable[bytes], name: str) -> Iterator[str]:
    """Yield the lines of a UTF-8 stream, line ends kept, a byte-order mark dropped.

    Raises:
        DataError: a line is not UTF-8; the message gives its number.
    """
    for number, raw in enumerate(stream, 1):
        line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            utf16 = number == 1 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            found = "it looks like UTF-16" if utf16 else f"byte 0x{line[error.start]:02x} at position {error.start}"
            message = f"`{name}`, line {number} is not UTF-8 ({found}); save the file as UTF-8 and try again"
            raise DataError(message) from error


def _csv(lines: Iterator[str], name: str) -> Iterator[Record]:
    """Read CSV as RFC 4180 has it; a header without commas may be divided by semicolons or tabs.

    Spreadsheet programs may say the sign in a line of its own in front, as `sep=;`.
    """
    first = next(lines, "")
    said = _SAID.fullmatch(first.rstrip("\r\n"))
    if said is not None:
        reader = csv.reader(lines, delimiter=said[1], strict=True)
        return _with_header(_csv_cells(reader, name, 1), name)
    plain = _QUOTED.sub("", first)
    delimiter = next((sign for sign in ",;\t" if sign in plain), ",")
    reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
    return _with_header(_csv_cells(reader, name, 0), name)


_SAID = re.compile("sep=([,;\t|])", re.IGNORECASE)
_QUOTED = re.compile('"[^"]*(?:"|$)')


def _csv_cells(reader: Any, name: str, before: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows with their lines; `before` lines of the file were read in front of the reader's first."""
    while True:
        start = before + reader.line_num + 1
        try:
            cells = _next_row(reader)
        except csv.Error as error:
            message = (
                f"`{name}`, line {start} cannot be read as CSV: {error}; check the quotes of the row that starts there"
            )
            raise DataError(message) from error
        if cells is None:
            return
        if cells:
            yield start, cells


def _next_row(reader: Any) -> list[str] | None:
    """Read one row with no limit on the size of a cell: the limit is the csv module's, so it is put back."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        row: list[str] | None = next(reader, None)
        return row
    finally:
        csv.field_size_limit(before)


def _tsv(lines: Iterator[str], name: str) -> Iterator[Record]:
    """Read TSV: a tab or a line end is never inside a cell, and quotes mean something only around a whole cell."""
    numbered = ((number, line.rstrip("\r\n")) for number, line in enumerate(lines, 1))
    return _with_header(((n, [_unquoted(c) for c in line.split("\t")]) for n, line in numbered if line), name)


def _unquoted(cell: str) -> str:
    """Undo quoting where a cell is well and wholly quoted; stray quotes are text, as most TSV files mean them."""
    inner = cell[1:-1]
    if len(cell) < 2 or cell[0] != '"' or cell[-1] != '"' or '"' in inner.replace('""', ""):
        return cell
    return inner.replace('""', '"')


def _with_header(rows: Iterator[tuple[int, list[str]]], name: str) -> Iterator[Record]:
    _, header = next(rows, (0, []))
    # A column without a name is mostly a saved index: it is kept, under its place, and never guessed to be the text.
    columns = [column.strip() or f"column {place}" for place, column in enumerate(header, 1)]
    for column in columns:
        if columns.count(column) > 1:
            raise DataError(f"`{name}`: {columns.count(column)} columns are called `{column}`; give each its own name")
    for number, cells in _without_blank_end(rows, name):
        if len(cells) != len(columns):
            raise DataError(
                f"`{name}`, line {number} has {len(cells)} cells, the header {len(columns)} ({', '.join(columns)}); "
                "put text that holds the separator in double quotes"
            )
        yield number, dict(zip(columns, cells, strict=True))


def _without_blank_end(rows: Iterator[tuple[int, list[str]]], name: str) -> Iterator[tuple[int, list[str]]]:
    """Leave out the rows of empty cells that a sheet ends in, and say so; one with rows behind it stays."""
    blank: list[tuple[int, list[str]]] = []
    for row in rows:
        if not any(cell.strip() for cell in row[1]):
            blank.append(row)
            continue
        yield from blank
        blank.clear()
        yield row
    if len(blank) > 0:
        say(f"`{name}` ends in {len(blank):,} row(s) without a word, from line {blank[0][0]}; they are left out")


def _json_lines(lines: Iterator[str], name: str) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"`{name}`, line {number} is not JSON: {error}; write one object a line") from error
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise DataError(f"`{name}`, line {number} holds a {kind}, not an object; write one object a line")
        yield number, value

"""Answers as lines of CSV or JSON, and a file of them that a killed run goes on with."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from softprompt import durable
from softprompt.errors import ConfigError, DataError, StorageError
from softprompt.modeling.answers import COLUMNS
from softprompt.registry import unknown_name
from softprompt.serving.streaming import Answered

FORMATS = {".csv": "csv", ".jsonl": "jsonl"}
"""What an output file may end in, and its format."""

_QUOTED = re.compile(r'[",\r\n]|^\s|\s$')


def format_of(path: Path) -> str:
    """Return `csv` or `jsonl`, by the suffix of an output file.

    Raises:
        UnknownNameError: another suffix.

    >>> format_of(Path("out.csv"))
    'csv'
    """
    if path.suffix.lower() not in FORMATS:
        raise unknown_name("output format", path.suffix or path.name, FORMATS)
    return FORMATS[path.suffix.lower()]


class Layout:
    """How rows and answers become lines.

    Every column of the input is kept; each prompt adds its answer (empty where it held its answer back) and what
    `answers.COLUMNS` says for its kind, behind `<prompt>_`. A prompt called like a column of the input has `_answer`
    put behind its name.

    | answer | `<prompt>` | more columns |
    |---|---|---|
    | one label | the label | `_probability` |
    | several labels | the labels, `|` between them | `_probability` of the set, `_probabilities` of each label |
    | a number | the number | |
    | tags | the tags, spaces between them | `_spans`: type, first word, word behind the last, text |
    | text | the text | |

    What is a list or an object in JSON lines is written as JSON into a cell of CSV.

    Args:
        form: `csv` or `jsonl`.
        columns: the columns of the first row.
        prompts: the prompts' names.
        kinds: the kind of each prompt's readout; by default all answer with one label.
    """

    def __init__(
        self, form: str, columns: Sequence[str], prompts: Sequence[str], kinds: Sequence[str] | None = None
    ) -> None:
        self._form = form
        self.names: tuple[str, ...] = ()
        self._all = tuple(columns)
        for name, kind in zip(prompts, kinds or ["label-words"] * len(prompts), strict=True):
            more = COLUMNS.get(kind, ())
            free = _free(name, more, self._all)
            self.names = (*self.names, free)
            self._all = (*self._all, free, *(f"{free}_{suffix}" for suffix in more))

    def head(self) -> str:
        """Return what stands in front of the rows: the names of the columns, or nothing."""
        return _csv(self._all) if self._form == "csv" else ""

    def line(self, answered: Answered) -> str:
        """Return one row and its answers as a line, its end included.

        Raises:
            DataError: the row has a column that the first row had not, which CSV cannot hold.
        """
        values = self._values(answered)
        if self._form == "jsonl":
            return json.dumps(values, ensure_ascii=False) + "\n"
        strange = next((column for column in values if column not in self._all), None)
        if strange is not None:
            raise DataError(
                f"a row has a column `{strange}` that the first row does not have, which a CSV file cannot hold; "
                "write JSON lines: --json, or an output file that ends in .jsonl"
            )
        return _csv([_cell(values.get(column)) for column in self._all])

    def _values(self, answered: Answered) -> dict[str, Any]:
        values: dict[str, Any] = dict(answered.row)
        for name, answer in zip(self.names, answered.answers, strict=True):
            values |= {f"{name}_{suffix}" if suffix else name: value for suffix, value in answer.cells().items()}
        return values


class AnswerFile:
    """A file of answers that appears whole at its end; until then its rows stand in `<file>.part`.

    `<file>.part.json` beside it says what run they belong to. The same run goes on behind the last whole row.

    Args:
        path: the file to write, `.csv` or `.jsonl`.
        identity: what decides the answers, as plain JSON; `None` for a run that cannot be repeated.

    Attributes:
        path: the file.
        form: `csv` or `jsonl`.
        done: rows that stand in its part already.

    Raises:
        ConfigError: there are rows of another run.
        StorageError: they may not be read.
        UnknownNameError: the file ends in another suffix.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any] | None) -> None:
        self.path, self.form = path, format_of(path)
        self._part = path.with_name(f"{path.name}.part")
        self._note = path.with_name(f"{path.name}.part.json")
        self._identity = None if identity is None else json.loads(json.dumps(identity))
        self._end = 0
        self.done = 0
        if self._part.exists():
            self._pick_up()

    @contextmanager
    def writing(self) -> Iterator[Callable[[str], None]]:
        """Open the file for writing; what is given to the function reaches the disk, the file its name at the end.

        Raises:
            StorageError: the disk is full, or the folder may not be written; what was written stays.
        """
        stream: BinaryIO | None = None

        def write(text: str) -> None:
            nonlocal stream
            with self._said():
                stream = stream or self._open()
                stream.write(text.encode("utf-8"))
                stream.flush()
                os.fsync(stream.fileno())

        try:
            yield write
        finally:
            if stream is not None:
                with self._said():
                    stream.close()
        self._finish()

    def _open(self) -> BinaryIO:
        """Say whose rows these are, then open them behind the last whole one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        durable.write_text(self._note, json.dumps(self._identity, sort_keys=True) + "\n")
        stream = self._part.open("r+b" if self._end else "wb")
        stream.truncate(self._end)
        stream.seek(self._end)
        return stream

    def _finish(self) -> None:
        with self._said():
            os.replace(self._part, self.path)
            self._note.unlink(missing_ok=True)

    def _pick_up(self) -> None:
        """Find the last whole row of a run that was cut short."""
        found = self._found()
        if found is None:  # of a run that cannot be repeated: nothing is lost by writing over it
            return
        if found != self._identity:
            differs = _difference(found, self._identity)
            raise ConfigError(
                f"`{self._part}` holds the rows of an unfinished run that differs in {differs}; "
                f"repeat that run to finish it, or delete `{self._part.name}` to start anew"
            )
        with self._said("read"), self._part.open("rb") as stream:
            rows, self._end = _whole_rows(stream, quoted=self.form == "csv")
        self.done = max(0, rows - (self.form == "csv"))

    def _found(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] | None = json.loads(self._note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found

    @contextmanager
    def _said(self, verb: str = "write") -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(
                f"cannot {verb} `{self._part}`: {error.strerror or error}; the rows written so far are safe there, "
                "and the same command goes on behind them"
            ) from error


def _whole_rows(lines: Iterable[bytes], *, quoted: bool) -> tuple[int, int]:
    """Count the whole rows among the lines of a file, and the bytes they take; a line end inside quotes is text."""
    rows = end = position = 0
    inside = False
    for line in lines:
        position += len(line)
        inside ^= quoted and line.count(b'"') % 2 == 1
        if line.endswith(b"\n") and not inside:
            rows, end = rows + 1, position
    return rows, end


def _difference(found: Mapping[str, Any], asked: Mapping[str, Any] | None) -> str:
    if asked is None:
        return "its input, which could be read again"
    names = sorted(key for key in {*found, *asked} if found.get(key) != asked.get(key))
    return ", ".join(names) if found else "what is not known"


def _csv(cells: Sequence[str]) -> str:
    return (
        ",".join(f'"{cell.replace(chr(34), chr(34) * 2)}"' if _QUOTED.search(cell) else cell for cell in cells) + "\n"
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)


def _free(name: str, more: Sequence[str], taken: Sequence[str]) -> str:
    while name in taken or any(f"{name}_{suffix}" in taken for suffix in more):
        name += "_answer"
    return name

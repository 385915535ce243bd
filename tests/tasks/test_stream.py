"""Rows as they come, for `softprompt run`."""

import io
import itertools
import sys

import pytest

from softprompt.errors import ConfigError, DataError, StorageError, UnknownNameError
from softprompt.tasks.sources.stream import read_rows


def test_csv_keeps_all_columns_and_their_order(tmp_path):
    path = tmp_path / "inbox.csv"
    path.write_text("id,text\n7,hello\n8,\n")
    rows = list(read_rows(path, ["text"]))
    assert rows == [{"id": "7", "text": "hello"}, {"id": "8", "text": ""}]
    assert list(rows[0]) == ["id", "text"]


def test_json_lines_become_text_and_other_columns_may_hold_lists():
    stream = io.BytesIO(b'{"text": "hi", "n": 3, "ok": true, "tags": ["\xc3\xa9"], "none": null}\n')
    (row,) = read_rows(stream, ["text"], form="jsonl")
    assert row == {"text": "hi", "n": "3", "ok": "true", "tags": '["é"]', "none": ""}


@pytest.mark.parametrize("name", ["lines.txt", "lines"])
def test_any_other_file_is_a_row_a_line_blank_ones_too(tmp_path, name):
    (tmp_path / name).write_bytes(b"one\r\n\ntwo")
    assert list(read_rows(tmp_path / name, ["review"])) == [{"review": "one"}, {"review": ""}, {"review": "two"}]


def test_standard_input_is_a_dash(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))
    assert list(read_rows("-", ["text"])) == [{"text": "one"}, {"text": "two"}]


def test_rows_come_before_the_stream_ends():
    def endless():
        yield b"text\n"
        yield from (b"row %d\n" % n for n in itertools.count())

    lazily = read_rows(_Lines(endless()), ["text"], form="csv")
    assert [row["text"] for row in itertools.islice(lazily, 3)] == ["row 0", "row 1", "row 2"]


class _Lines(io.BytesIO):
    """A binary stream without an end."""

    def __init__(self, lines):
        super().__init__()
        self.lines = lines

    def __next__(self):
        return next(self.lines)


@pytest.mark.parametrize(
    ("data", "form", "fields", "kind", "message"),
    [
        (b"texts,label\na,b\n", "csv", ["text"], DataError, "line 2 has no column `text`; .*did you mean `texts`"),
        (b'{"text": "a"}\n{"x": 1}\n', "jsonl", ["text"], DataError, "line 2 has no column `text`; it has `x`"),
        (b'{"text": ["a"]}\n', "jsonl", ["text"], DataError, "line 1: the column `text` holds a list, not text"),
        (b'{"text": "\\ud83d"}\n', "jsonl", ["text"], DataError, "line 1: the column `text` holds half a character"),
        (b"\xff\n", "lines", ["text"], DataError, "line 1 is not UTF-8"),
        (b"a\n", "lines", ["premise", "hypothesis"], ConfigError, "plain lines hold one text.*`premise`, `hypothesis`"),
        (b"a\n", "cvs", ["text"], UnknownNameError, "unknown format `cvs`; did you mean `csv`"),
    ],
)
def test_bad_rows_are_told_their_line(data, form, fields, kind, message):
    with pytest.raises(kind, match=message):
        list(read_rows(io.BytesIO(data), fields, form=form))


def test_a_file_that_is_not_there_or_not_a_file_is_said(tmp_path):
    (tmp_path / "inbox.csv").write_text("text\na\n")
    with pytest.raises(DataError, match=r"there is no file .*inbix.csv`; did you mean `inbox.csv`"):
        list(read_rows(tmp_path / "inbix.csv", ["text"]))
    with pytest.raises(DataError, match=r"there is no file .*zzz`; check the path"):
        list(read_rows(tmp_path / "zzz", ["text"]))
    with pytest.raises(StorageError, match=r"cannot read .*: Is a directory"):
        list(read_rows(tmp_path, ["text"]))

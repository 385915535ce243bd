"""Rows as they come, for `softprompt run`."""

import io
import itertools
import sys

import pytest

from softprompt.errors import ConfigError, DataError, StorageError, UnknownNameError
from softprompt.tasks.chat import ChatTemplate
from softprompt.tasks.free_text import Text
from softprompt.tasks.kinds import as_shown
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.sources.files import read_file
from softprompt.tasks.sources.stream import read_rows
from softprompt.tasks.tags import TokenTags
from softprompt.tasks.template import Template


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


def shown_as(kind, column):
    """What `run` makes of a row for a prompt of a kind."""
    words = LabelWords.from_labels(["A", "B"])
    readout, template = {
        "choice": (words, Template("{soft}{question}\n{choices}\nAnswer:")),
        "tagging": (TokenTags.from_tags(["B-X", "O"], column="tokens"), Template("{soft}{tokens} Tags: {tokens}")),
        "chat": (Text(8), ChatTemplate()),
    }[kind]
    fields = {field: field for field in template.fields}
    return lambda row, where: as_shown(row, readout, template, {**fields, template.fields[-1]: column}, where)


TURNS = '{"role": "user", "content": "Hi"}'
ASKED = '[{"role":"user","content":"Hi"}]'


@pytest.mark.parametrize(
    ("kind", "row", "column", "text"),
    [
        ("choice", '{"question": "q", "choices": ["a dog", "a cat"], "n": [1]}', "choices", "A. a dog\nB. a cat"),
        ("choice", '{"question": "q", "options": {"text": ["x", "y"]}}', "choices", "A. x\nB. y"),
        ("choice", '{"question": "q", "A": "x", "B": "y", "C": ""}', "choices", "A. x\nB. y"),
        ("choice", '{"question": "q", "choices": "A. x\\nB. y"}', "choices", "A. x\nB. y"),
        ("tagging", '{"tokens": ["EU", "re jects"]}', "tokens", "EU re\u00a0jects"),
        ("tagging", '{"words": ["EU", 7]}', "words", "EU 7"),
        ("tagging", '{"tokens": "EU rejects"}', "tokens", "EU rejects"),
        ("chat", f'{{"messages": [{TURNS}]}}', "messages", ASKED),
        ("chat", f'{{"conversations": [{TURNS}]}}', "messages", ASKED),
        ("chat", f'{{"messages": [{TURNS}, {{"role": "assistant", "content": "Yes"}}]}}', "messages", ASKED),
        ("chat", '{"messages": "Hi"}', "messages", "Hi"),
    ],
)
def test_lists_become_the_text_that_a_prompt_of_their_kind_learned(kind, row, column, text):
    fields = ["question", column] if kind == "choice" else [column]
    (found,) = read_rows(io.BytesIO(row.encode()), fields, form="jsonl", shown=shown_as(kind, column))
    assert found[column] == text
    assert found.get("n", "[1]") == "[1]"


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("choice", '{"question": "q", "choices": ["x"]}', r"line 1 has 1 choice\(s\); a question needs 2 to 26"),
        ("choice", '{"question": "q"}', "line 1 has no column `choices`"),
        ("tagging", '{"tokens": ["a", ""]}', "line 1: word 2 of 2 is empty"),
        ("chat", '{"messages": []}', "line 1: a conversation is a list of messages"),
        ("chat", '{"messages": [{"role": "me", "content": "x"}]}', "line 1, message 1 has the role `me`"),
    ],
)
def test_lists_that_cannot_be_asked_are_told_their_line(kind, row, message):
    column = {"choice": "choices", "tagging": "tokens", "chat": "messages"}[kind]
    with pytest.raises(DataError, match=message):
        list(read_rows(io.BytesIO(row.encode()), [column], form="jsonl", shown=shown_as(kind, column)))


def test_parquet_is_read_and_files_of_other_programs_are_refused_by_name(tmp_path):
    pytest.importorskip("datasets", reason="Parquet needs the `data` extra")
    import pyarrow
    from pyarrow.parquet import write_table

    write_table(pyarrow.table({"text": ["hi", None], "n": [1, 2]}), tmp_path / "rows.parquet")
    rows = [{"text": "hi", "n": "1"}, {"text": "", "n": "2"}]
    assert list(read_rows(tmp_path / "rows.parquet", ["text"])) == rows
    with pytest.raises(DataError, match=r"rows.parquet`, row 1 has no column `body`"):
        list(read_rows(tmp_path / "rows.parquet", ["body"]))
    (tmp_path / "book.xlsx").write_bytes(b"PK")
    for read in (lambda: read_rows(tmp_path / "book.xlsx", ["text"]), lambda: read_file(tmp_path / "book.xlsx")):
        with pytest.raises(DataError, match=r"is a workbook of a spreadsheet program, .*save its rows as CSV"):
            read()

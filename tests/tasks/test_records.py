"""Text files as records: what is read, and what each broken file is told."""

import csv
import io

import pytest

from softprompt.errors import DataError
from softprompt.tasks.sources.records import records


def read(data: bytes, form: str = "csv"):
    return list(records(io.BytesIO(data), "a." + form, form))


def test_csv_gives_each_row_its_first_line():
    data = b'text,label\n"two\nlines",a\n\nplain,b\n'
    assert read(data) == [(2, {"text": "two\nlines", "label": "a"}), (5, {"text": "plain", "label": "b"})]


def test_csv_keeps_quotes_commas_and_windows_line_ends():
    assert read(b'text,label\r\n"say ""hi"", you",a\r\n') == [(2, {"text": 'say "hi", you', "label": "a"})]


@pytest.mark.parametrize("sign", [b";", b"\t"])
def test_csv_may_be_divided_by_other_signs(sign):
    data = sign.join([b"text", b"label"]) + b"\n" + sign.join([b"a, b", b"x"]) + b"\n"
    assert read(data) == [(2, {"text": "a, b", "label": "x"})]


def test_a_byte_order_mark_is_not_part_of_the_first_column():
    assert read(b"\xef\xbb\xbftext,label\na,b\n")[0][1] == {"text": "a", "label": "b"}
    assert read(b'\xef\xbb\xbf{"text": "a"}\n', "jsonl")[0][1] == {"text": "a"}


def test_a_cell_may_be_larger_than_the_csv_modules_limit_which_is_left_as_it_was():
    before = csv.field_size_limit()
    (row,) = read(b"text,label\n" + b"x" * 200_000 + b",a\n")
    assert len(row[1]["text"]) == 200_000
    assert csv.field_size_limit() == before


def test_a_saved_index_without_a_name_is_named_after_its_place():
    assert read(b",text\n0,a\n") == [(2, {"column 1": "0", "text": "a"})]


def test_tsv_takes_stray_quotes_as_text_and_undoes_whole_quoting():
    data = b'text\tlabel\n"good ""movie"""\ta\n"Yes." said "No."\tb\nnice 8"\tc\n"\td\n'
    assert [values["text"] for _, values in read(data, "tsv")] == ['good "movie"', '"Yes." said "No."', 'nice 8"', '"']


def test_json_lines_keep_types_and_skip_blank_lines():
    data = b'{"text": "a\\u2028b", "label": 1}\n\n{"text": null, "label": true}\n'
    assert read(data, "jsonl") == [
        (1, {"text": "a\u2028b", "label": 1}),
        (3, {"text": None, "label": True}),
    ]


@pytest.mark.parametrize(
    ("form", "data", "message"),
    [
        ("csv", b"text,label\na,b\n\xff,b\n", r"`a.csv`, line 3 is not UTF-8 \(byte 0xff at position 0\)"),
        ("jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n', r"`a.jsonl`, line 2 is not UTF-8 \(byte 0xe9 at position 10\)"),
        ("csv", "text,label\n".encode("utf-16"), r"`a.csv`, line 1 is not UTF-8 \(it looks like UTF-16\)"),
        ("csv", b"text,label\na,b,c\n", r"line 2 has 3 cells, the header 2 \(text, label\).*double quotes"),
        ("tsv", b"text\tlabel\na\n", r"line 2 has 1 cells, the header 2 \(text, label\)"),
        (
            "csv",
            b'text,label\n"open,b\nc,d\n',
            r"line 2 cannot be read as CSV: unexpected end of data; check the quotes",
        ),
        ("csv", b'text,label\nx,y\n"a"b,c\n', r"line 3 cannot be read as CSV: .* expected after"),
        ("csv", b"text,text\na,b\n", r"`a.csv`: 2 columns are called `text`; give each its own name"),
        ("jsonl", b'{"text": "a"}\n{"text": \n', r"`a.jsonl`, line 2 is not JSON: .*; write one object a line"),
        ("jsonl", b"[1, 2]\n", r"`a.jsonl`, line 1 holds a list, not an object; write one object a line"),
        ("jsonl", b"[" * 100_000 + b"\n", r"`a.jsonl`, line 1 is not JSON"),
    ],
)
def test_a_broken_file_is_told_its_line(form, data, message):
    with pytest.raises(DataError, match=message):
        read(data, form)


def test_a_separator_inside_quotes_or_said_in_front():
    assert read(b'"text, long";label\na;b\n') == [(2, {"text, long": "a", "label": "b"})]
    assert read(b'sep=;\r\ntext;label\r\n"a, b";x\r\n') == [(3, {"text": "a, b", "label": "x"})]
    with pytest.raises(DataError, match="line 4 has 1 cells"):
        read(b"sep=|\ntext|label\na|b\nc\n")


def test_blank_rows_that_a_sheet_ends_in_are_left_out_and_said(capsys):
    data = b"text,label\na,x\n,\nb,y\n,\n,,,\n"
    assert [values["text"] for _, values in read(data)] == ["a", "", "b"]
    assert "`a.csv` ends in 2 row(s) without a word, from line 5; they are left out" in capsys.readouterr().err
    assert [values["text"] for _, values in read(b"text\tlabel\na\tx\n\t\n", "tsv")] == ["a"]

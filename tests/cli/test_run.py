"""`softprompt run`: texts, standard input and files; one prompt or several; files that go on after a kill."""

from __future__ import annotations

import csv
import json
from itertools import islice
from pathlib import Path

import pytest

from softprompt.backbones import backbone
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.serving import answer_file, streaming
from softprompt.serving.engine import Engine
from softprompt.store.store import PromptStore
from softprompt.tasks.readout import LabelWords

INBOX = 'id,text,note\n1,hello there,a\n2,"win, ""now""\nor never",b\n3,,c\n4,see you at home,d\n5,free,e\n'


@pytest.fixture
def inbox(tmp_path, kept):
    path = tmp_path / "inbox.csv"
    path.write_bytes(INBOX.encode())
    return path


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(streaming, "CHUNK", 2)


def read(path):
    with Path(path).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def expected(kept, texts, name="spam"):
    model = PromptedModel(backbone.load_backbone("gemma-3-270m"))
    return [(a.label, a.probability) for a in model.score([{"text": t} for t in texts], kept.get(name))]


def test_texts_give_a_table_with_the_answers_of_every_prompt(ok, kept):
    lines = ok("run", "spam,mood", "win a prize", "see you").splitlines()
    assert lines[0].split() == ["text", "spam", "mood"]
    (label, probability), _ = expected(kept, ["win a prize", "see you"])
    assert lines[1].startswith(f"win a prize  {label} {probability * 100:.1f} %")
    assert len(lines) == 3


def test_prompts_share_the_passes_of_an_engine(ok, kept, monkeypatch):
    passes = []
    begin = PromptedModel.begin

    def counted(self, rows, bounds, *rest):
        passes.append((len(rows), len(set(bounds))))
        return begin(self, rows, bounds, *rest)

    monkeypatch.setattr(PromptedModel, "begin", counted)
    ok("run", "spam,mood", *"abcdefgh")
    assert sum(rows for rows, _ in passes) == 16
    assert 2 in {prompts for _, prompts in passes}


def test_json_of_texts_is_a_line_a_row(ok, kept):
    (line,) = ok("run", "spam", "see you", "--json").splitlines()
    found = json.loads(line)
    ((label, probability),) = expected(kept, ["see you"])
    assert found == {"text": "see you", "spam": label, "spam_probability": pytest.approx(probability, abs=1e-5)}


def test_standard_input_is_lines_unless_said_otherwise(ok, kept):
    assert ok("run", "spam", "-", stdin=b"one\ntwo\n").splitlines()[0] == "text,spam,spam_probability"
    assert [row["text"] for row in csv.DictReader(ok("run", "spam", stdin=b"one\ntwo\n").splitlines())] == [
        "one",
        "two",
    ]
    rows = ok("run", "spam", "-", "--format", "jsonl", "--json", stdin=b'{"text": "a", "n": 1}\n').splitlines()
    assert json.loads(rows[0])["n"] == "1"
    rows = ok("run", "spam", "-", "--format", "csv", "--text", "body", stdin=b"id,body\n7,a\n").splitlines()
    assert rows[1].startswith("7,a,")


def test_a_file_keeps_its_columns_and_its_order(ok, kept, inbox):
    ok("run", "spam,mood", inbox, "-o", "out.csv")
    rows = read("out.csv")
    assert list(rows[0]) == ["id", "text", "note", "spam", "spam_probability", "mood", "mood_probability"]
    assert [row["id"] for row in rows] == list("12345")
    assert rows[1]["text"] == 'win, "now"\nor never'
    told = expected(kept, [row["text"] for row in rows])
    assert [(r["spam"], float(r["spam_probability"])) for r in rows] == [
        (a, pytest.approx(p, abs=1e-5)) for a, p in told
    ]
    assert sorted(p.name for p in Path().glob("out*")) == ["out.csv"]


def test_json_lines_and_plain_lines_and_another_column(ok, kept, inbox):
    ok("run", "spam", inbox, "-o", "out.jsonl", "--text", "note")
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    ((label, _),) = expected(kept, ["d"])
    assert (rows[3]["text"], rows[3]["spam"]) == ("see you at home", label)
    Path("lines.txt").write_text("one\n\nthree\n")
    ok("run", "spam", "lines.txt", "-o", "out.csv")
    assert [row["text"] for row in read("out.csv")] == ["one", "", "three"]
    shown = ok("run", "spam", "lines.txt")
    assert shown == Path("out.csv").read_text()


def test_a_prompt_called_like_a_column_makes_way(call, kept, make, inbox):
    kept.put(make(), "note")
    result = call("run", "note", inbox, "-o", "out.csv")
    assert "the input has a column `note` of its own; the prompt's answers are in `note_answer`" in result.stderr
    assert list(read("out.csv")[0])[2:] == ["note", "note_answer", "note_answer_probability"]


def test_an_answer_that_is_held_back_is_shown_so(call, ok, kept, make, inbox):
    kept.put(make(abstain=0.999), "careful")
    assert "held back (" in ok("run", "careful", "hello")
    result = call("run", "careful", inbox, "-o", "out.csv")
    assert "5 answers were held back: their probability is below the prompt's threshold" in result.stderr
    assert {row["careful"] for row in read("out.csv")} == {""}
    assert json.loads(ok("run", "careful", "hello", "--json"))["careful"] is None


def test_a_text_longer_than_the_model_is_shortened_and_counted(call, kept):
    result = call("run", "spam,mood", "word " * 500, "short")
    assert result.exit_code == 0
    assert "warning: 1 rows were longer than the backbone takes and were shortened" in result.stderr


def test_several_fields_come_from_columns_or_from_the_command_line(call, ok, home, make):
    from softprompt.tasks.template import Template

    PromptStore().put(make(template=Template("{bos}{soft}{premise} Then: {claim}\nLabel:")), "pair")
    ok("run", "pair", "--field", "premise=It rains.", "--field", "claim=It is wet.")
    ok("run", "pair", "It is wet.", "--field", "premise=It rains.")
    Path("pairs.csv").write_text("premise,claim\nIt rains.,It is wet.\n")
    by_row = ok("run", "pair", "pairs.csv").splitlines()[1].rsplit(",", 2)[1:]
    Path("claims.csv").write_text("claim\nIt is wet.\n")
    assert ok("run", "pair", "claims.csv", "--field", "premise=It rains.").splitlines()[1].rsplit(",", 2)[1:] == by_row
    for words, text in [
        (
            ["It is wet."],
            "`pair` asks for `premise`, `claim`, which one text cannot fill; give rows with those columns",
        ),
        (["--field", "premise=It rains."], "no value for `claim`; give each as --field name=value"),
        (["--field", "premis=It rains."], "unknown field `premis`; did you mean `premise`?"),
        (["claims.csv"], "has no column `premise`; it has `claim`, and each row needs `premise`, `claim`"),
    ]:
        result = call("run", "pair", *words)
        assert result.exit_code == 2
        assert text in result.stderr


def test_a_killed_run_goes_on_behind_the_last_whole_row(call, ok, kept, inbox, small_chunks, monkeypatch):
    command = ["run", "spam", inbox, "-o"]
    ok(*command, "whole.csv")
    answers = Engine.answers

    def killed(self, asks):
        yield from islice(answers(self, asks), 2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "answers", killed)
        result = call(*command, "out.csv")
    assert result.exit_code == 130
    assert "stopped behind row 2; the same command goes on from there" in result.stderr
    assert not Path("out.csv").exists()
    with Path("out.csv.part").open("ab") as part:
        part.write(b'3,"torn in\nthe mi')
    result = call(*command, "out.csv")
    assert "going on behind the first 2 rows, which `out.csv.part` has already" in result.stderr
    assert Path("out.csv").read_bytes() == Path("whole.csv").read_bytes()
    assert sorted(p.name for p in Path().glob("out*")) == ["out.csv"]


def unfinished(call, command, monkeypatch):
    """Leave a run behind that was stopped after its first chunk."""
    write, calls = answer_file.os.fsync, []

    def stop(descriptor):
        write(descriptor)
        calls.append(descriptor)
        if len(calls) == 3:  # the note, its folder, the first rows
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(answer_file.os, "fsync", stop)
        assert call(*command).exit_code == 130


def test_another_run_does_not_go_on_with_foreign_rows(call, kept, inbox, small_chunks, monkeypatch):
    command = ["run", "spam", inbox, "-o", "out.csv"]
    unfinished(call, command, monkeypatch)
    before = Path("out.csv.part").read_bytes()
    result = call("run", "spam,mood", inbox, "-o", "out.csv")
    assert result.exit_code == 2
    assert "`out.csv.part` holds the rows of an unfinished run that differs in columns, field values, prompts; " in (
        result.stderr
    )
    assert "repeat that run to finish it, or delete `out.csv.part` to start anew" in result.stderr
    inbox.write_bytes(INBOX.encode() + b"6,x,f\n")
    assert "differs in input size, input time;" in call(*command).stderr
    assert "differs in its input, which" in call("run", "spam", "-", "-o", "out.csv", stdin=b"a\n").stderr
    Path("out.csv.part.json").unlink()
    assert "differs in what is not known;" in call(*command).stderr
    assert Path("out.csv.part").read_bytes() == before


def test_a_run_over_standard_input_begins_anew(ok, kept, small_chunks):
    Path("out.csv.part").write_text("old")
    Path("out.csv.part.json").write_text("null\n")
    ok("run", "spam", "-", "-o", "out.csv", stdin=b"a\nb\nc\n")
    assert [row["text"] for row in read("out.csv")] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["spam", "inbx.csv"], "there is no file `inbx.csv`; did you mean `inbox.csv`?"),
        (["spam", "inbox.csv", "more"], "`inbox.csv` is a file among 2 inputs; give one file, or texts only"),
        (["spam", "inbox.csv", "-o", "out.xlsx"], "unknown output format `.xlsx`; known: .csv, .jsonl"),
        (["spam", "inbox.csv", "-o", "inbox.csv"], "`inbox.csv` is the input itself; write the answers to another"),
        (["spam", "inbox.csv", "-o", "home"], "`home` is a folder; name the file to write in it"),
        (["spam", "inbox.csv", "--format", "xml"], "unknown format `xml`"),
        (["spma", "hello"], "unknown prompt `spma`; did you mean `spam`?"),
        (["spam,spam", "hello"], "two of the prompts `spam,spam` are called `spam`; name each once"),
        ([",", "hello"], "`,` names no prompt; give one, or several with commas"),
        (["spam", "-"], "`standard input` has no rows; there is nothing to answer"),
        (["spam", "hello", "--field", "text=x"], "`spam` asks for nothing more, which one text cannot fill"),
    ],
)
def test_what_cannot_be_run_is_said_and_nothing_is_written(call, inbox, words, text):
    before = sorted(Path().rglob("*"))
    result = call("run", *words)
    assert result.exit_code == 2
    assert text in result.stderr
    assert sorted(Path().rglob("*")) == before
    assert inbox.read_bytes() == INBOX.encode()


def test_without_any_input_on_a_terminal_it_says_what_to_give(call, kept, monkeypatch):
    monkeypatch.setattr(
        "softprompt.cli.run.sys", type("System", (), {"stdin": type("T", (), {"isatty": lambda: True})})
    )
    result = call("run", "spam")
    assert "error: there is nothing to answer; give a text, a file, or - for standard input" in result.stderr


def test_rows_of_json_with_other_columns_fit_json_lines_only(call, ok, kept):
    Path("in.jsonl").write_text('{"text": "a"}\n{"text": "b", "more": 1}\n')
    result = call("run", "spam", "in.jsonl", "-o", "out.csv")
    assert result.exit_code == 2
    assert "a row has a column `more` that the first row does not have, which a CSV file cannot hold" in result.stderr
    ok("run", "spam", "in.jsonl", "-o", "out.jsonl")
    assert json.loads(Path("out.jsonl").read_text().splitlines()[1])["more"] == "1"


def test_every_kind_of_answer_is_printed_and_written(ok, home, make):
    from softprompt.tasks.free_text import Text
    from softprompt.tasks.readout_kinds import Scalar, YesNo
    from softprompt.tasks.tags import TokenTags

    tags = TokenTags.from_tags(["B-Q", "O"], column="text")
    for name, readout in (
        ("words", Text(4)),
        ("stars", Scalar(1.0, 5.0, (" awful", " great"))),
        ("moods", YesNo.from_labels(["warm", "dull"])),
        ("parts", tags),
    ):
        PromptStore().put(make(readout=readout), name)
    names = "words,stars,moods,parts"
    shown = ok("run", names, "a good film")
    assert shown.splitlines()[0].split() == ["text", "words", "stars", "moods", "parts"]
    assert all(sign.isprintable() or sign == "\n" for sign in shown)
    Path("in.txt").write_text("a good film\n")
    ok("run", names, "in.txt", "-o", "out.csv")
    (row,) = read("out.csv")
    assert list(row) == [
        "text", "words", "stars", "moods", "moods_probability", "moods_probabilities", "parts", "parts_spans",
    ]  # fmt: skip
    assert 1 <= float(row["stars"]) <= 5
    assert set(json.loads(row["moods_probabilities"])) == {"warm", "dull"}
    assert len(row["parts"].split(" ")) == 3
    (line,) = ok("run", names, "in.txt", "--json").splitlines()
    found = json.loads(line)
    assert found["stars"] == pytest.approx(float(row["stars"]), abs=1e-6)
    assert isinstance(found["parts_spans"], list)


def test_files_like_those_of_choices_and_tags_that_were_trained_on_are_answered(ok, home, make):
    from softprompt.tasks.tags import TokenTags
    from softprompt.tasks.template import Template

    asks = Template("{bos}{soft}Question: {question}\n{choices}\nAnswer:")
    PromptStore().put(make(template=asks, readout=LabelWords.from_labels(["A", "B"])), "quiz")
    Path("quiz.csv").write_text("question,A,B,answer\nwhich purrs?,a dog,a cat,B\n")
    Path("quiz.jsonl").write_text('{"question": "which purrs?", "choices": ["a dog", "a cat"], "answer": 1}\n')
    rows = [json.loads(ok("run", "quiz", name, "--json")) for name in ("quiz.csv", "quiz.jsonl")]
    assert [row["choices"] for row in rows] == ["A. a dog\nB. a cat"] * 2
    assert rows[0]["quiz"] == rows[1]["quiz"]
    typed = ok("run", "quiz", "--field", "question=which purrs?", "--field", "choices=A. a dog\nB. a cat", "--json")
    assert json.loads(typed)["quiz"] == rows[0]["quiz"]
    PromptStore().put(make(readout=TokenTags.from_tags(["B-Q", "O"], column="text")), "parts")
    Path("parts.jsonl").write_text('{"text": ["good", "film"], "tags": ["B-Q", "O"]}\n')
    assert json.loads(ok("run", "parts", "parts.jsonl", "--json"))["text"] == "good film"


def test_texts_that_were_cut_off_are_counted(call, home, make):
    from softprompt.tasks.free_text import Text

    PromptStore().put(make(readout=Text(2)), "words")
    result = call("run", "words", "one", "two")
    assert "texts were ended by the most tokens that an answer may have, and may be unfinished" in result.stderr


def test_an_ensemble_gives_one_answer(ok, call, kept, make, inbox):
    import torch

    kept.put(make(tensors={"input": torch.ones(2, 48)}), "spam-2")
    members = [dict(a) for a in (_shares(kept, "spam", ["see you"]), _shares(kept, "spam-2", ["see you"]))]
    found = json.loads(ok("run", "spam,spam-2", "see you", "--ensemble", "mean", "--json"))
    best = max(members[0], key=lambda label: members[0][label] + members[1][label])
    assert list(found) == ["text", "answer", "answer_probability"]
    assert (found["answer"], found["answer_probability"]) == (
        best,
        pytest.approx((members[0][best] + members[1][best]) / 2, abs=1e-5),
    )
    ok("run", "spam,spam-2", inbox, "-o", "out.csv", "--ensemble", "vote")
    assert {row["answer_probability"] for row in read("out.csv")} <= {"0.5", "1.0"}
    for words, text in (
        (["spam,mood", "x", "--ensemble", "mean"], "the members of an ensemble answer the same question"),
        (["spam", "x", "--ensemble", "mean"], "an ensemble of 1 prompt was asked for; name at least two: a,b,c"),
        (["spam,spam-2", "x", "--ensemble", "men"], "unknown way to join an ensemble `men`; did you mean `mean`?"),
    ):
        result = call("run", *words)
        assert result.exit_code == 2
        assert text in result.stderr


def _shares(kept, name, texts):
    model = PromptedModel(backbone.load_backbone("gemma-3-270m"))
    return model.score([{"text": t} for t in texts], kept.get(name))[0].probabilities

"""Answers in a stream: the same as all at once, the right columns, constant memory; and their lines and files."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softprompt.errors import ConfigError, DataError, UnknownNameError
from softprompt.modeling.answers import Answer
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.modeling.sampling import Sampling
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.serving.answer_file import AnswerFile, Layout, _whole_rows, format_of
from softprompt.serving.engine import Engine
from softprompt.serving.streaming import Answered, Asked, answer_stream
from softprompt.tasks.chat import ChatTemplate
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_backbone


@pytest.fixture(scope="module")
def model():
    return PromptedModel(tiny_backbone("gemma3"))


def prompt_for(model, pattern="{bos}{soft}Text: {text}\nLabel:", tokens=3):
    rows = torch.randn(tokens, model.backbone.embedding_size, generator=torch.Generator().manual_seed(tokens))
    words = LabelWords.from_labels(["ham", "spam"])
    return SoftPrompt({"input": rows}, Template(pattern), words, model.backbone.fingerprint)


def test_a_stream_answers_like_score_whatever_the_chunk(model):
    asked = [Asked.of(str(n), prompt_for(model, tokens=n)) for n in (3, 5)]
    rows = [{"text": "word " * (i % 7), "id": str(i)} for i in range(11)]
    for chunk in (1, 4, 100):
        with Engine(model) as engine:
            found = [each for part in answer_stream(engine, rows, asked, chunk=chunk) for each in part]
        assert [each.row for each in found] == rows
        for place, each in enumerate(asked):
            alone = model.score([{"text": row["text"]} for row in rows], each.prompt)
            told = [answered.answers[place].probability for answered in found]
            assert told == [pytest.approx(answer.probability, abs=1e-5) for answer in alone]


def test_an_endless_source_is_read_a_chunk_at_a_time(model):
    read = []

    def endless():
        for i in count():
            read.append(i)
            yield {"text": f"row {i}"}

    with Engine(model, rows=2) as engine:
        parts = list(islice(answer_stream(engine, endless(), [Asked.of("a", prompt_for(model))], chunk=4), 2))
    assert [len(part) for part in parts] == [4, 4]
    assert len(read) < 8 + 200


def test_whole_chunks_before_a_row_that_cannot_be_asked_come_first(model):
    rows = [{"text": f"row {i}"} for i in range(6)] + [{"other": "column"}]
    got = []
    with Engine(model) as engine:
        parts = answer_stream(engine, rows, [Asked.of("a", prompt_for(model))], chunk=4)
        with pytest.raises(DataError, match="`a` asks for `text` in each row"):
            got.extend(each.row["text"] for part in parts for each in part)
    assert got == [f"row {i}" for i in range(4)]


def test_draws_are_a_rows_own_wherever_a_stream_begins(model):
    text = replace(prompt_for(model), readout=Text(6), requires=("text",))
    rows = [{"text": "again"}] * 8
    hot = Sampling(temperature=3.0, seed=7)

    def texts(some, **given):
        with Engine(model) as engine:
            parts = answer_stream(engine, some, [Asked.of("t", text)], sampling=hot, **given)
            return [each.answers[0].label for part in parts for each in part]

    whole = texts(rows)
    assert len(set(whole)) > 4
    assert texts(rows[3:], first=3) == whole[3:]
    assert texts(rows[:1], max_tokens=2)[0] != whole[0]


def test_fields_come_from_columns_and_constants(model):
    pair = prompt_for(model, "{bos}{soft}{premise} so {claim}")
    row = {"body": "a", "premise": "b", "claim": "c"}
    assert Asked.of("p", pair).fields(row) == {"premise": "b", "claim": "c"}
    fixed = Asked.of("p", pair, column="body", constants={"premise": "x", "other": "y"})
    assert fixed.fields(row) == {"premise": "x", "claim": "a"}
    with pytest.raises(
        ConfigError, match="`p` asks for `premise`, `claim`, which one text cannot fill; give rows with"
    ):
        Asked.of("p", pair, column="body")
    with pytest.raises(
        DataError, match="`p` asks for `claim` in each row, and a row has `premise`; add it to every row"
    ):
        Asked.of("p", pair).fields({"premise": "b"})


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8)
answers = st.builds(Answer, st.sampled_from(["ham", 'a "b"\nc']), st.floats(0, 1), st.just({}), st.booleans())


@given(st.lists(st.tuples(texts, texts, answers), min_size=1, max_size=5))
def test_csv_lines_read_back_as_they_were_and_are_counted(rows):
    layout = Layout("csv", ["a", "b,c"], ["p"])
    lines = [layout.line(Answered({"a": a, "b,c": b}, (answer,))) for a, b, answer in rows]
    whole = layout.head() + "".join(lines)
    found = list(csv.DictReader(io.StringIO(whole, newline=""), strict=True))
    assert [(row["a"], row["b,c"]) for row in found] == [(a, b) for a, b, _ in rows]
    assert [row["p"] for row in found] == ["" if answer.abstained else answer.label for *_, answer in rows]
    data = whole.encode()
    assert _whole_rows(io.BytesIO(data), quoted=True) == (len(rows) + 1, len(data))
    torn = data[:-1] if len(lines[-1]) > 1 else data
    assert _whole_rows(io.BytesIO(torn), quoted=True)[0] == len(rows)


def test_json_lines_and_names_that_are_taken():
    layout = Layout("jsonl", ["p", "q_probability"], ["p", "q", "q_answer"])
    assert layout.names == ("p_answer", "q_answer", "q_answer_answer")
    answer = Answer("ham", 0.51234567, {})
    line = json.loads(layout.line(Answered({"p": "é", "q_probability": "1"}, (answer, answer, answer))))
    assert list(line)[:4] == ["p", "q_probability", "p_answer", "p_answer_probability"]
    assert (line["p"], line["p_answer"], line["p_answer_probability"]) == ("é", "ham", 0.512346)


def test_a_row_with_a_column_of_its_own_is_refused_in_csv():
    with pytest.raises(DataError, match="a row has a column `b` that the first row does not have, which a CSV file"):
        Layout("csv", ["a"], ["p"]).line(Answered({"a": "1", "b": "2"}, (Answer("x", 1.0, {}),)))
    with pytest.raises(UnknownNameError, match=r"unknown output format `\.txt`"):
        format_of(Path("out.txt"))


def test_a_file_appears_whole_and_goes_on(tmp_path):
    path = tmp_path / "out.jsonl"
    first = AnswerFile(path, {"input": "a"})
    with contextlib.suppress(ZeroDivisionError), first.writing() as write:
        write('{"n": 1}\n{"n": 2}\n')
        raise ZeroDivisionError
    assert not path.exists()
    second = AnswerFile(path, {"input": "a"})
    assert second.done == 2
    with second.writing() as write:
        write('{"n": 3}\n')
    assert path.read_text() == '{"n": 1}\n{"n": 2}\n{"n": 3}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_finished_part_only_needs_its_name(tmp_path):
    path = tmp_path / "out.jsonl"
    (tmp_path / "out.jsonl.part").write_text('{"n": 1}\n')
    (tmp_path / "out.jsonl.part.json").write_text('{"input": "a"}')
    file = AnswerFile(path, {"input": "a"})
    with file.writing():
        pass
    assert (file.done, path.read_text()) == (1, '{"n": 1}\n')


def test_nothing_is_left_where_nothing_was_written(tmp_path):
    with contextlib.suppress(ZeroDivisionError), AnswerFile(tmp_path / "out.csv", {}).writing():
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        ('[{"role":"user","content":"Hi"}]', '[{"role":"user","content":"Hi"}]'),
        ("[urgent] call me", '[{"role":"user","content":"[urgent] call me"}]'),
        ("[1, 2]", '[{"role":"user","content":"[1, 2]"}]'),
        ("[]", '[{"role":"user","content":"[]"}]'),
    ],
)
def test_only_a_list_of_objects_is_a_conversation(model, text, turns):
    chat = replace(prompt_for(model), template=ChatTemplate(), readout=Text(4))
    assert Asked.of("chat", chat, column="text").fields({"text": text}) == {"messages": turns}

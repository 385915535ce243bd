"""From a source to a task."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.errors import ConfigError, DataError, TemplateError, UnknownNameError
from softprompt.tasks.load import load_split, load_task
from softprompt.tasks.sources.resolve import _from_memory
from softprompt.tasks.template import Template

DATA = os.environ.get("SOFTPROMPT_DATA", "")


def rows(count=40, start=0, labels=("ham", "spam")):
    return [{"text": f"message {n}", "label": labels[n % len(labels)]} for n in range(start, start + count)]


def said(task, text):
    return any(text in note for note in (*task.notes, *task.division))


def test_an_undivided_source_becomes_three_splits_without_shared_texts():
    task = load_task(rows(100))
    assert {split: len(part) for split, part in task.splits.items()} == {"train": 68, "validation": 12, "test": 20}
    assert task.given == frozenset()
    texts = [{row.key for row in part} for part in task.splits.values()]
    assert len(set.union(*texts)) == 100
    assert said(task, "test is 20 of 100 train rows, set aside with seed 0")
    assert said(task, "validation is 12 of 80 train rows")
    assert (task.name, task.kind, task.labels) == ("rows", "classification", ("ham", "spam"))


def test_the_defaults_of_template_and_words():
    task = load_task(rows())
    assert task.template.pattern == "{bos}{soft}Text: {text}\nLabel:"
    assert task.readout.words == (" ham", " spam")
    assert task.readout.scoring == "trie"


def test_options_reach_template_and_readout():
    template = "{bos}{soft}{text}\nIt is\n"
    task = load_task(rows(), template=template, words={"ham": "fine"}, scoring="full", name="mail", max_tokens=50)
    assert task.template == Template(template, 50)
    assert task.readout.words == ("fine", "spam")  # behind a line end no space
    assert (task.readout.scoring, task.name) == ("full", "mail")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.sampled_from("ab")), min_size=4, max_size=40),
    st.lists(st.tuples(st.integers(0, 20), st.sampled_from("ab")), min_size=1, max_size=20),
)
def test_given_splits_are_never_altered_and_their_overlap_is_counted(train, test):
    def made(pairs):
        return [{"text": f"t{n}", "label": label} for n, label in pairs]

    train = [*train, (101, "a"), (102, "b")]
    source = {"train": made(train), "validation": made([(201, "a"), (201, "b")]), "test": made(test)}
    task = load_task(source)
    assert task.given == {"train", "validation", "test"}
    for split, part in source.items():
        assert [(row.fields["text"], row.label) for row in task.rows(split)] == [(r["text"], r["label"]) for r in part]
    seen = {n for n, _ in train}
    assert task.overlap("test") == tuple(i for i, (n, _) in enumerate(test) if n in seen)
    assert task.overlap("train") == task.overlap("validation") == ()


def test_a_missing_validation_split_comes_out_of_train_and_test_stays():
    task = load_task({"train": rows(40), "test": rows(4, start=36)})
    assert task.given == {"test"}
    assert [len(task.rows(split)) for split in ("train", "validation", "test")] == [35, 5, 4]
    assert task.overlap("test") == (0, 1, 2, 3)  # in train, or in the validation that was drawn from it
    assert said(task, "4 of 4 rows of test also stand in train or validation")


def test_equal_texts_stay_on_one_side():
    source = [{"text": f"t{n // 3}", "label": "ab"[n // 3 % 2]} for n in range(120)]
    task = load_task(source)
    assert not task.overlap("validation")
    assert not task.overlap("test")
    assert said(task, "80 rows of train repeat another row exactly, kept")


def test_the_draws_depend_on_the_seed_alone():
    first, again, other = load_task(rows(), seed=1), load_task(rows(), seed=1), load_task(rows(), seed=2)
    assert first == again
    assert first.data_hash == again.data_hash != other.data_hash


def test_the_hash_is_that_of_the_rows(tmp_path):
    splits = {"train": rows(20), "validation": rows(4, 20), "test": rows(4, 30)}
    for split, part in splits.items():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    assert load_task(tmp_path, name="x").data_hash == load_task(splits).data_hash
    splits["test"][0]["text"] += "!"
    assert load_task(tmp_path).data_hash != load_task(splits).data_hash


def test_shots_are_drawn_from_train_and_the_rest_stays():
    source = {"train": rows(40), "validation": rows(6, 40), "test": rows(6, 50)}
    task = load_task(source, shots=3)
    assert task.label_counts("train") == {"ham": 3, "spam": 3}
    assert task.given == {"validation", "test"}
    assert said(task, "train is 3 different texts of each label, drawn with seed 0")
    with pytest.raises(DataError, match="shots is 50, and the label `ham` has 20"):
        load_task(source, shots=50)
    with pytest.raises(ConfigError, match="shots is 0"):
        load_task(source, shots=0)


def test_sentence_pairs_work(tmp_path):
    lines = [f"first {n}\tsecond {n}\t{'no' if n % 2 else 'yes'}\n" for n in range(30)]
    (tmp_path / "pairs.tsv").write_text("sentence1\tsentence2\tlabel\n" + "".join(lines))
    task = load_task(tmp_path / "pairs.tsv")
    assert task.template.fields == ("sentence1", "sentence2")
    assert set(task.rows("train")[0].fields) == {"sentence1", "sentence2"}


def test_only_the_columns_of_the_template_are_kept():
    source = [{**row, "id": n, "title": "t", "weird": [1]} for n, row in enumerate(rows())]
    task = load_task(source, template="{soft}{title}: {text} ->")
    assert set(task.rows("test")[0].fields) == {"title", "text"}
    assert said(task, "columns by their usual names: label from `label`")


def test_column_names_with_spaces_work():
    source = [{"the text": row["text"], "the answer": row["label"]} for row in rows()]
    task = load_task(source, text="the text", label="the answer")
    assert task.template.pattern == "{bos}{soft}The text: {the text}\nThe answer:"


def test_what_is_odd_is_kept_and_said():
    odd = [{"text": " ", "label": "ham"}, {"text": "message 1", "label": "ham"}, {"text": "message 2", "label": "ham"}]
    task = load_task([*rows(), *odd])
    assert sum(map(len, task.splits.values())) == 43
    assert said(task, "1 row of train with an empty text, kept")
    assert said(task, "1 text with more than one label, so that no model can be right every time")
    assert said(task, "1 row of train repeat another row exactly, kept")


@pytest.mark.parametrize(
    ("source", "options", "kind", "message"),
    [
        (rows(4), {}, DataError, "`rows` has 4 train rows, too few to set aside a validation split; .*at least 3"),
        (rows(20, labels=("ham",)), {}, DataError, "`rows` has the one label `ham`"),
        ([], {}, DataError, "`the rows` has no rows"),
        (
            {"test": rows(4)},
            {},
            DataError,
            "`rows` has no train split, only `test`; add the rows to learn from as train",
        ),
        ({"train": rows(), "test": rows(4, labels=("eggs",))}, {}, DataError, "label `eggs` is in 4 .* never in train"),
        ([*rows(), {"text": "x"}], {}, DataError, "row 41 has no `label`; it has `text`; add it or take the row out"),
        ([*rows(), {"text": "x", "label": ""}], {}, DataError, "`the rows`, row 41: the label column `label` is empty"),
        ([*rows(), {"text": ["x"], "label": "ham"}], {}, DataError, "row 41: the column `text` holds a list, not text"),
        (rows(), {"words": {"han": "x"}}, UnknownNameError, "unknown label `han`; did you mean `ham`"),
        (rows(), {"template": "{soft}Answer:"}, TemplateError, "names no field"),
        (rows(), {"template": "{txt}"}, TemplateError, "asks for `{txt}`.*did you mean `text`"),
    ],
)
def test_bad_input_is_one_clear_error(source, options, kind, message):
    with pytest.raises(kind, match=message):
        load_task(source, **options)


def test_a_bad_row_of_a_file_is_told_its_line(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text,label\na,x\nb,\n")
    with pytest.raises(DataError, match=r"a.csv`, line 3: the label column `label` is empty"):
        load_task(tmp_path / "a.csv")


def test_rows_for_judging_need_no_train_split(tmp_path):
    (tmp_path / "test.csv").write_text("text,label\na,ham\n")
    template = Template("{soft}{text}:")
    (row,) = load_split(tmp_path, "test", template, ["ham", "spam"]).rows
    assert (row.fields, row.label) == ({"text": "a"}, "ham")
    assert len(load_split(rows(7), "test", template, ["ham", "spam"]).rows) == 7
    with pytest.raises(UnknownNameError, match="unknown split `validation`; known: test"):
        load_split(tmp_path, "validation", template, ["ham", "spam"])
    with pytest.raises(DataError, match=r"test.csv`, line 2: the label `ham` is none that the prompt knows \(x, y\)"):
        load_split(tmp_path, "test", template, ["x", "y"])


@pytest.mark.skipif(not DATA, reason="SOFTPROMPT_DATA names no folder of real data")
@pytest.mark.parametrize(
    ("name", "labels", "given"), [("sst2", 2, 3), ("trec", 6, 1), ("banking77", 77, 1), ("mrpc", 2, 1)]
)
def test_real_folders_load(name, labels, given):
    task = load_task(os.path.join(DATA, name))
    assert len(task.labels) == labels
    assert len(task.given) == given


def test_a_carved_split_shares_no_text_with_a_given_one():
    rows = [{"text": f"{label} {n}", "label": label} for label in ("good", "bad") for n in range(40)]
    task = load_task({"train": rows, "validation": rows[::2]})
    seen = {row.key for row in task.rows("validation")}
    assert not seen & {row.key for row in task.rows("test")}
    assert len(task.rows("train")) + len(task.rows("test")) == 80


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("classification", {"bounds": (0.0, 1.0)}, "`bounds` was given, .* task is classification, .* regression;"),
        ("classification", {"max_new_tokens": 3}, "`max_new_tokens` was given, .* generation, extraction, chat;"),
        ("generation", {"words": {"ham": "fine"}}, "`words` was given, and the task is generation"),
        ("generation", {"scoring": "full"}, "`scoring` was given, and the task is generation"),
        ("multi-label", {"scoring": "full"}, "`scoring` was given, and the task is multi-label"),
    ],
)
def test_what_a_kind_of_task_has_no_use_for_is_refused(kind, given, message):
    with pytest.raises(ConfigError, match=message):
        load_task(rows(), kind=kind, text="text", label="label", **given)


def test_the_answers_column_is_kept(tmp_path):
    assert load_task([{**row, "category": row["label"]} for row in rows()], label="category").column == "category"


def test_a_data_frame_is_rows_alone_or_by_split():
    pandas = pytest.importorskip("pandas", reason="a data frame needs pandas")
    frame = pandas.DataFrame([*rows(), {"text": None, "label": "ham"}])
    assert load_task(frame).data_hash == load_task([*rows(), {"text": None, "label": "ham"}]).data_hash
    parts = {"train": frame, "test": pandas.DataFrame(rows(8, start=100))}
    assert load_task(parts).splits["test"][0].fields == {"text": "message 100"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (["a film"], r"`the rows`, row 1 is str \('a film'\); give one mapping a row, as {\"text\""),
        ({"train": ["a"]}, r"`train`, row 1 is str \('a'\)"),
        ({"text": ["a"], "label": ["b"]}, r"a mapping with `text`, `label`, which are columns; give one mapping a row"),
        (3, "`the rows` is int, which holds no rows"),
    ],
)
def test_what_is_no_rows_is_told_how_to_write_them(source, message):
    with pytest.raises(DataError, match=message):
        _from_memory(source)

"""From columns to a kind of task: what is told from them, what each kind makes of its rows, what it refuses."""

import json
import os
import random

import pytest

from softprompt.errors import DataError, TemplateError, UnknownNameError
from softprompt.tasks.chat import ChatTemplate
from softprompt.tasks.free_text import Text
from softprompt.tasks.kinds import KINDS
from softprompt.tasks.load import load_split, load_task
from softprompt.tasks.readout_kinds import Scalar, YesNo
from softprompt.tasks.splits import folds, source_of_chance
from softprompt.tasks.tags import TokenTags
from softprompt.tasks.task import Example, hash_rows

DATA = os.environ.get("SOFTPROMPT_DATA", "")


def sets(count=40):
    return [{"text": f"t{n}", "labels": [name for i, name in enumerate("ab") if n >> i & 1]} for n in range(count)]


def numbers(count=40):
    return [{"text": f"t{n}", "score": n / 8} for n in range(count)]


def pairs(count=40):
    return [{"input": f"in {n}", "target": f"out {n}"} for n in range(count)]


def sentences(count=40):
    return [{"tokens": ["Anna", f"w{n}"], "tags": ["B-PER", "O"]} for n in range(count)]


def chats(count=20):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    return [{"messages": [{**turns[0], "content": f"hi {n}"}, turns[1]]} for n in range(count)]


def quizzes(count=40):
    letters = "ABC"
    return [{"question": f"q{n}", "choices": ["x", "y", "z"], "answer": letters[n % 3]} for n in range(count)]


def squad(count=20):
    context = "Anna lives in Ulm."
    return [
        {"context": context, "question": f"where {n}?", "answers": {"text": ["Ulm", "in Ulm"], "answer_start": [14]}}
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("rows", "kind", "note", "pattern"),
    [
        (sets(), "multi-label", "the column `labels` holds lists", "{bos}{soft}Text: {text}\nLabels:"),
        (numbers(), "regression", "the column `score` holds numbers with fractions", "{bos}{soft}Text: {text}\nScore:"),
        (
            pairs(),
            "generation",
            "the column `target` holds 40 different texts in 40 rows",
            "{bos}{soft}{input}\nTarget:",
        ),
        (
            sentences(),
            "tagging",
            "the columns `tokens` and `tags` hold lists, a tag for each word",
            "{bos}{soft}Text: {tokens}\nTags: {tokens}",
        ),
        (chats(), "chat", "the column `messages` holds conversations", "{soft}{messages}"),
        (
            quizzes(),
            "choice",
            "choices in `choices`, the right one in `answer`",
            "{bos}{soft}Question: {question}\n{choices}\nAnswer:",
        ),
        (
            squad(),
            "extraction",
            "the columns `context`, `question` and `answers` are those of questions on a context",
            "{bos}{soft}Context: {context}\nQuestion: {question}\nAnswer:",
        ),
    ],
)
def test_the_kind_is_told_from_the_columns_and_said(rows, kind, note, pattern):
    task = load_task(rows)
    assert (task.kind, task.template.pattern) == (kind, pattern)
    assert task.by_label == KINDS.get(kind).by_label
    assert f'read as {kind}: {note}; say kind="..." for another' in task.notes
    assert f": {kind}, " in task.describe()
    assert json.loads(json.dumps(task.summary()))["kind"] == kind
    assert not task.overlap("test")
    assert all(task.rows(split) for split in ("train", "validation", "test"))
    again = load_split(rows, "test", task.template, task.readout).rows
    assert sorted(map(repr, again)) == sorted(repr(row) for part in task.splits.values() for row in part)


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        ([{"text": f"t{n}", "label": f"{n % 3}.0"} for n in range(40)], {}),  # whole numbers are labels
        ([{"text": f"t{n}", "target": "yes" if n % 2 else "no"} for n in range(40)], {}),
        ([{"input": f"t{n}", "target": "yes" if n % 2 else "no"} for n in range(40)], {"text": "input"}),
        ([{"text": f"t{n}", "A": "x", "B": "y", "label": "pq"[n % 2]} for n in range(40)], {}),
        (sets(), {"kind": "classification", "text": "text", "label": "text2"}),
    ],
)
def test_what_leaves_a_doubt_is_classification(rows, options):
    rows = [{**row, "text2": "uv"[n % 2]} if "kind" in options else row for n, row in enumerate(rows)]
    assert load_task(rows, **options).kind == "classification"


def test_an_unknown_kind_offers_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown kind of task `taging`; did you mean `tagging`"):
        load_task(sentences(), kind="taging")


def test_sets_of_labels():
    task = load_task(sets())
    assert task.readout == YesNo(("a", "b"), (" a?", " b?"))
    assert task.rows("train")[0].label in {(), ("a",), ("b",), ("a", "b")}
    assert sum(task.label_counts(split)["a"] for split in task.splits) == 20
    assert any("of train have no label at all" in note for note in task.notes)
    cells = [{"text": f"t{n}", "label": ["a", "b | a", ""][n % 3]} for n in range(30)]
    found = load_task(cells, kind="multi-label", words={"a": "apple"})
    assert {row.label for row in found.rows("train")} == {("a",), ("a", "b"), ()}
    assert found.readout.words == (" apple?", " b?")


def test_a_rare_label_stays_in_train_and_is_said():
    rows = [*sets(), {"text": "one", "labels": ["c"]}]
    for seed in range(20):
        assert load_task(rows, seed=seed).label_counts("train")["c"] == 1
    assert "the label `c` is on 1 row of train only; its figures will be uncertain" in load_task(rows).notes


def test_numbers_have_the_bounds_of_train():
    task = load_task({"train": numbers(), "test": [{"text": "x", "score": 9.5}]})
    train = [row.label for row in task.rows("train")]
    assert task.readout == Scalar(min(train), max(train))
    assert "1 row of test lie outside of that and cannot be answered right" in task.notes
    assert load_task(numbers(), bounds=(0, 10), words={"high": "great"}).readout == Scalar(
        0.0, 10.0, (" low", " great")
    )
    with pytest.raises(DataError, match=r"the value [0-9.]+ is outside of 0.0 to 2.0"):
        load_task(numbers(), bounds=(0, 2))
    stars = [{"text": f"t{n}", "label": n % 5} for n in range(40)]
    assert load_task(stars, kind="regression").rows("train")[0].label in {0.0, 1.0, 2.0, 3.0, 4.0}


def test_text_answers_have_room_and_references():
    rows = [{**row, "references": [row["target"], "another"]} for row in pairs()]
    task = load_task({"train": pairs(), "validation": rows[:5], "test": rows[5:10]})
    assert task.readout == Text(16)
    assert task.rows("test")[0].references == ("out 5", "another")
    assert task.rows("train")[0].accepted == ("out 0",)
    assert load_task(pairs(), max_new_tokens=7, template="{soft}{input}\n").readout == Text(7, lead="")
    with pytest.raises(DataError, match="row 41: the target column `target` is empty; write the text to learn"):
        load_task([*pairs(), {"input": "x", "target": " "}])
    named = [{"instruction": "do", "input": str(n), "output": f"o {n}"} for n in range(20)]
    assert load_task(named).template.pattern == "{bos}{soft}Instruction: {instruction}\nInput: {input}\nOutput:"


def test_a_text_of_a_test_split_of_ours_is_shown_once_with_all_its_targets():
    task = load_task([{"input": f"in {n // 4}", "target": f"out {n}"} for n in range(200)])
    assert "50 texts with more than one target" in task.notes
    keys = [row.key for row in task.rows("test")]
    assert len(keys) == len(set(keys))
    assert all(len(row.references) == 4 for split in ("test", "validation") for row in task.rows(split))
    assert len(task.rows("validation")) == 4 * len({row.key for row in task.rows("validation")})
    assert any("each with all its targets as references, and shows each once" in note for note in task.division)


def test_free_text_as_labels_offers_other_kinds():
    with pytest.raises(
        DataError, match=r"too many to be labels; .* say what it is with kind= \(regression, generation\)"
    ):
        load_task([{"text": f"t{n}", "label": f"some text {n}"} for n in range(60)])
    assert load_task([{"text": f"t{n}", "label": f"x {n}"} for n in range(60)], kind="generation").kind == "generation"


def test_tags():
    task = load_task(sentences(), words={"O": "nothing"})
    assert task.readout == TokenTags(("B-PER", "O"), (" person", " nothing"))
    row = task.rows("train")[0]
    assert (row.label, row.fields["tokens"].split(" ")[0]) == (("B-PER", "O"), "Anna")
    torn = [{"tokens": ["a", "b"], "tags": ["O", "I-X"]} for _ in range(2)]
    assert any("have a span that begins with I-" in note for note in load_task([*sentences(), *torn]).notes)
    written = [{"text": f"Anna w{n}", "label": "B-PER O"} for n in range(20)]
    assert load_task(written, kind="tagging", text="text", label="label").rows("train")[0].label == ("B-PER", "O")


def test_conversations():
    task = load_task(chats())
    assert (task.template, task.rows("train")[0].label) == (ChatTemplate(), "hello")
    assert json.loads(task.rows("train")[0].fields["messages"])[-1]["role"] == "user"
    kind = {"role": "system", "content": "Be kind."}
    with_system = [{"messages": [kind, *row["messages"]]} for row in chats()]
    assert load_task(with_system).template == ChatTemplate(system="Be kind.")
    mixed = load_task([*with_system, {"messages": [{"role": "user", "content": "x"}, *chats(1)[0]["messages"][1:]]}])
    assert mixed.template == ChatTemplate(own_system=True)
    assert any("system messages differ from row to row" in note for note in mixed.notes)


@pytest.mark.parametrize(
    ("answers", "rule"),
    [
        (["A", "b", "C."], "letters"),
        (["x", "y", "z"], "the words of the choice"),
        ([0, 1, 2], "numbers from 0"),
        (["1", "2", "3"], "numbers from 1"),
    ],
)
def test_answers_name_choices_in_any_one_way(answers, rule):
    rows = [{**row, "answer": answers[n % 3]} for n, row in enumerate(quizzes())]
    task = load_task(rows)
    assert task.labels == ("A", "B", "C")
    assert task.readout.words == (" A", " B", " C")
    assert any(f"answers in `answer` read as {rule}" in note for note in task.notes)
    assert {row.fields["question"]: row.label for part in task.splits.values() for row in part}["q4"] == "B"
    assert task.rows("train")[0].fields["choices"] == "A. x\nB. y\nC. z"


def test_choices_stand_in_lists_columns_or_named_lists():
    named = {"text": ["x", "y"], "label": ["1", "2"]}
    arc = [{"question": f"q{n}", "choices": named, "answerKey": str(1 + n % 2)} for n in range(20)]
    lettered = [{"question": f"q{n}", "A": "x", "B": "y", "C": "z" * (n % 2), "answer": "AB"[n % 2]} for n in range(20)]
    numbered = [{"premise": f"q{n}", "choice1": "x", "choice2": f"y{n}", "label": n % 2} for n in range(20)]
    assert "the names beside the choices" in " ".join(load_task(arc).notes)
    assert load_task(lettered).labels == ("A", "B", "C")
    assert load_task(numbered).template.pattern == "{bos}{soft}Premise: {premise}\n{choices}\nAnswer:"


def test_extraction():
    rows = squad()
    rows[3]["answers"] = {"text": [], "answer_start": []}
    task = load_task(rows)
    assert "1 row(s) have no answer in their context: the right answer there is no text" in task.notes
    assert task.rows("train")[0].accepted == ("Ulm", "in Ulm")
    plain = [{"context": f"Anna {n}", "question": "who?", "answer": "Anna"} for n in range(20)]
    assert load_task(plain).kind == "extraction"
    assert load_task(plain).rows("train")[0].references == ()


def test_shots_are_in_all_where_rows_have_no_one_label():
    task = load_task(numbers(), shots=5)
    assert len(task.rows("train")) == 5
    assert "train is 5 different texts in all, drawn with seed 0" in task.division
    with pytest.raises(DataError, match=r"shots is 99, and there are [0-9]+ different text\(s\) in train"):
        load_task(numbers(), shots=99)


def test_folds_of_text_answers_are_even():
    rows = [Example({"input": f"t{n}"}, f"o{n}") for n in range(40)]
    parts = folds(rows, 4, source_of_chance(0, "folds"), by_label=False)
    assert [len(part) for part in parts] == [10] * 4


@pytest.mark.parametrize(
    ("rows", "options", "kind", "message"),
    [
        ([*sentences(), {"tokens": ["a"], "tags": []}], {}, DataError, "row 41 has 1 words in `tokens` and 0 tags in"),
        ([*sentences(), {"tokens": "a", "tags": 3}], {}, DataError, "row 41: the column `tags` holds no list"),
        ([*sentences(), {"tokens": ["", "b"], "tags": ["O", "O"]}], {}, DataError, "row 41: word 1 of 2 is empty"),
        (
            {"train": sentences(), "test": [{"tokens": ["a"], "tags": ["I-X"]}]},
            {},
            DataError,
            r"the tag `I-X` is on 1 word\(s\) of test and never in train; add rows of it",
        ),
        (
            [{"tokens": ["a"], "tags": ["O"]}] * 9,
            {},
            DataError,
            "has only the tag `O` in train; tagging needs at least",
        ),
        (sentences(), {"template": "{soft}x"}, TemplateError, "names no field"),
        (numbers(), {"kind": "tagging"}, DataError, "tagging needs a list of words and a list of tags a row"),
        (
            [{**row, "x": "y"} for row in sentences()],
            {"template": "{soft}{x}"},
            TemplateError,
            "does not show the tagged column; write {tokens} into it, twice",
        ),
        (sets(), {"kind": "regression"}, DataError, r"row 1: the column `labels` holds `\[\]`, no number to predict"),
        (
            [*numbers(), {"text": "x", "score": ""}],
            {},
            DataError,
            "row 41: the column `score` is empty; give the row its",
        ),
        ([{"text": "x", "labels": []}] * 5, {}, DataError, "has no label in any row of train, column `labels`"),
        (
            {"train": sets(), "test": [{"text": "x", "labels": ["z"]}]},
            {},
            DataError,
            "the label `z` is in test and never in train; add rows",
        ),
        (
            [*quizzes(), {"question": "q", "choices": ["x", "y"], "answer": "C"}],
            {},
            DataError,
            "row 41: the answer `C` names none of its 2 choices; write the letter",
        ),
        ([*quizzes(), {"question": "q", "choices": ["x"], "answer": "A"}], {}, DataError, r"row 41 has 1 choice\(s\)"),
        ([*quizzes(), {"question": "q", "choices": 3, "answer": "A"}], {}, DataError, "row 41: .* no list of choices"),
        (numbers(), {"kind": "choice"}, DataError, "a multiple-choice task needs `question`, `choices`"),
        (numbers(), {"kind": "extraction"}, DataError, "extraction needs `context`, `question` and `answers`"),
        (numbers(), {"kind": "chat"}, DataError, "a chat task needs `messages`: in each row a list"),
        (chats(), {"kind": "chat", "template": "{soft}{messages}"}, TemplateError, "leave the template out"),
        (
            [*chats(), {"messages": [{"role": "user", "content": "x"}]}],
            {},
            DataError,
            "row 21 ends in a user's turn, so that there is no answer to learn",
        ),
        (
            [*chats(), {"messages": [*chats(1)[0]["messages"], chats(1)[0]["messages"][1]]}],
            {},
            DataError,
            "row 21 ends in two assistant's turns",
        ),
        ([*chats(), {"messages": [{"role": "assistant", "content": "x"}]}], {}, DataError, "row 21: .* no user turn"),
    ],
)
def test_bad_input_is_one_clear_error(rows, options, kind, message):
    with pytest.raises(kind, match=message):
        load_task(rows, **options)


def test_rows_for_judging_are_held_to_the_answers_of_the_prompt():
    task = load_task(sentences())
    with pytest.raises(DataError, match=r"row 1: the label `I-X` is none that the prompt knows \(B-PER, O\)"):
        load_split([{"tokens": ["a"], "tags": ["I-X"]}], "test", task.template, task.readout)
    labels = load_task(sets())
    with pytest.raises(DataError, match=r"row 1: the label `z` is none that the prompt knows \(a, b\)"):
        load_split([{"text": "a", "labels": ["z"]}], "test", labels.template, labels.readout)


def test_the_hash_of_labelled_rows_is_what_it_always_was():
    rows = {"train": [Example({"text": "a", "b": "ü"}, "x")], "test": [Example({"text": "c"}, None)]}
    assert hash_rows(rows) == "8c2812397b344baae33879912b498e53e64ac0044396bdbdb1674a99239df842"
    assert hash_rows({"test": [Example({"a": "b"}, "c", ("c", "d"))]}) != hash_rows(
        {"test": [Example({"a": "b"}, "c")]}
    )


def test_a_shuffled_source_is_the_same_kind():
    rows = pairs()
    random.Random(0).shuffle(rows)
    assert load_task(rows).kind == "generation"


@pytest.mark.skipif(not DATA, reason="SOFTPROMPT_DATA names no folder of real data")
@pytest.mark.parametrize(("name", "kind"), [("wikiann/en", "tagging"), ("e2e_nlg", "generation")])
def test_real_folders_load(name, kind):
    assert load_task(os.path.join(DATA, name)).kind == kind


def test_names_of_generation_are_seen_in_any_letter_case():
    rows = [{"Input": f"say {i}", "Output": f"said {i}"} for i in range(30)]
    assert load_task(rows).kind == "generation"
    assert load_task([{"Text": row["Input"], "Summary": row["Output"]} for row in rows]).kind == "generation"

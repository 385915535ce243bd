"""Which columns are text and label."""

import pytest

from softprompt.errors import DataError, TemplateError
from softprompt.tasks.columns import choose
from softprompt.tasks.remarks import guesses
from softprompt.tasks.sources.table import RawData, Table
from softprompt.tasks.template import Template


def raw(*columns):
    row = dict.fromkeys(columns, "x")
    return RawData("toy", {"train": Table("toy.csv", columns, [row], [2])}, divided=False)


@pytest.mark.parametrize(
    ("columns", "texts", "label"),
    [
        (("text", "label"), ("text",), "label"),
        (("Review", "Sentiment"), ("Review",), "Sentiment"),
        (("idx", "sentence", "label"), ("sentence",), "label"),
        (("sentence1", "sentence2", "label", "idx"), ("sentence1", "sentence2"), "label"),
        (("hypothesis", "premise", "label"), ("premise", "hypothesis"), "label"),
        (("question1", "question2", "is_duplicate"), ("question1", "question2"), "is_duplicate"),
        (("question", "passage", "answer"), ("question", "passage"), "answer"),
        (("title", "content", "label"), ("content",), "label"),
        (("text", "label", "label_text"), ("text",), "label_text"),
        (("mail", "category"), ("mail",), "category"),
        (("tweet", "y"), ("tweet",), "y"),
    ],
)
def test_usual_names_are_guessed(columns, texts, label):
    chosen = choose(raw(*columns), None, None, None)
    assert (chosen.texts, chosen.label) == (texts, label)
    assert chosen.guessed == (("text", "label") if len(columns) > len(texts) + 1 else ())


def test_what_is_told_is_not_guessed():
    chosen = choose(raw("id", "a", "b", "text", "label"), ["b", "a"], "id", None)
    assert (chosen.texts, chosen.label, chosen.guessed) == (("b", "a"), "id", ())
    chosen = choose(raw("id", "text", "category"), None, "category", None)
    assert chosen.guessed == ("text",)
    assert guesses(chosen) == ["columns by their usual names: text from `text`"]


def test_the_fields_of_a_template_are_the_text_columns():
    template = Template("{bos}{soft}{b} / {a} / {b}:")
    assert choose(raw("a", "b", "text", "label"), None, None, template).texts == ("b", "a")
    assert choose(raw("a", "b", "label"), "a", None, template).texts == ("b", "a")


def test_a_column_name_may_hold_spaces():
    assert choose(raw("review text", "label"), None, None, Template("{review text}:")).texts == ("review text",)


@pytest.mark.parametrize(
    ("columns", "asked", "kind", "message"),
    [
        (("a", "b", "c"), {}, DataError, "the columns `a`, `b`, `c`; none is label_text.* with label= "),
        (("a", "b", "label"), {}, DataError, "the columns `a`, `b`, `label`; none is text, .* with text= "),
        (("text", "label"), {"text": "texts"}, DataError, "no column `texts`; its columns are `text`, .*mean `text`"),
        (("text", "label"), {"label": "zzz"}, DataError, "`toy.csv` has no column `zzz`; .* are `text`, `label`$"),
        (("text", "label"), {"text": "label", "label": "label"}, DataError, "`label` is both text and label"),
        (("text", "label"), {"text": []}, DataError, "`text` names no column; name at least one of `text`, `label`"),
        (("te{x}t", "label"), {}, DataError, "cannot show the column `te{x}t`; rename it: no braces"),
        (("soft", "label"), {}, DataError, "cannot show the column `soft`"),
        (("text",), {}, DataError, "has only `text`, shown as text; no column is left for the label"),
    ],
)
def test_columns_that_cannot_be(columns, asked, kind, message):
    with pytest.raises(kind, match=message):
        choose(raw(*columns), asked.get("text"), asked.get("label"), None)


@pytest.mark.parametrize(
    ("pattern", "asked", "message"),
    [
        ("{txt}:", {}, r"asks for `{txt}`, and `toy.csv` has the columns `text`, `label`; did you mean `text`\?"),
        ("{text} {label}:", {"label": "label"}, "shows the label column `label`, which is the answer; leave it out"),
        (
            "{text}:",
            {"text": "label"},
            "text column `label` is not in the template, which shows `{text}`; write {label}",
        ),
    ],
)
def test_templates_that_do_not_fit(pattern, asked, message):
    with pytest.raises(TemplateError, match=message):
        choose(raw("text", "label"), asked.get("text"), asked.get("label"), Template(pattern))


def test_every_split_must_have_the_columns():
    tables = {
        "train": Table("train.csv", ("text", "label"), [{"text": "a", "label": "x"}], [2]),
        "test": Table("test.csv", ("text", "labels"), [{"text": "a", "labels": "x"}], [2]),
    }
    with pytest.raises(DataError, match=r"`test.csv` has no column `label`; .*did you mean `labels`"):
        choose(RawData("toy", tables, divided=True), None, None, None)

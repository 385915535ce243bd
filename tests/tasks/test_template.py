"""Templates: reading patterns, the tokenisation rule, placement and truncation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.errors import TemplateError
from softprompt.tasks.template import Bos, Field, Literal, Soft, Template
from softprompt.testing.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def tokens(text):
    return TOKENIZER.encode(text, add_special_tokens=False)


def test_spaces_before_a_field_belong_to_the_field():
    pieces = Template("{bos}{soft}Text: {text}\nLabel:").pieces
    assert pieces == (Bos(), Soft(), Literal("Text:"), Field("text", " "), Literal("\nLabel:"))


def test_newlines_before_a_field_stay_with_the_literal():
    assert Template("Text:\n {text}").pieces == (Literal("Text:\n"), Field("text", " "))


def test_doubled_braces_are_braces_and_pattern_is_not_evaluated():
    assert Template("{{x}} {text.__class__} {0}").pieces == (
        Literal("{x}"),
        Field("text.__class__", " "),
        Field("0", " "),
    )


@pytest.mark.parametrize(
    ("pattern", "placement"),
    [
        ("{bos}{soft}{text}", "prefix"),
        ("{text}{soft}", "suffix"),
        ("{a}{soft}{b}", "infix"),
        ("{soft}{a}{soft}", "interleaved"),
        ("{text}", "none"),
    ],
)
def test_placement_follows_from_the_soft_slots(pattern, placement):
    assert Template(pattern).placement == placement


@pytest.mark.parametrize("pattern", ["{text", "text}", "{}", "{ }{text}", "{{text}"])
def test_stray_braces_are_refused(pattern):
    with pytest.raises(TemplateError, match=r"stray|names no field"):
        Template(pattern)


def test_a_template_without_a_field_is_refused():
    with pytest.raises(TemplateError, match="names no field, so every row would be the same"):
        Template("{bos}{soft}Label:")


def test_virtual_tokens_need_a_slot():
    with pytest.raises(TemplateError, match=r"no \{soft\} slot for its 5 virtual tokens"):
        Template("{text} is").tokenize(TOKENIZER, 5)


def test_virtual_tokens_are_spread_over_the_slots():
    tokenized = Template("{soft}{a}{soft}{b}{soft}").tokenize(TOKENIZER, 5)
    assert tokenized.prefix == (-1, -2)
    assert tokenized.row({"a": "", "b": ""}).ids == (-3, -4, -5)


def test_a_row_is_the_pieces_tokenised_one_by_one():
    tokenized = Template("{bos}{soft}Text: {text}\nLabel:").tokenize(TOKENIZER, 2)
    assert tokenized.prefix == (TOKENIZER.bos_token_id, -1, -2, *tokens("Text:"))
    assert tokenized.row({"text": "good", "other": "x"}).ids == (*tokens(" good"), *tokens("\nLabel:"))


def test_a_missing_field_says_what_the_row_has():
    with pytest.raises(TemplateError, match="asks for the field `text`; the row has 'body'"):
        Template("{text}").tokenize(TOKENIZER, 0).row({"body": "x"})


def test_an_empty_row_is_refused():
    with pytest.raises(TemplateError, match="this row is empty"):
        Template("{soft}{text}").tokenize(TOKENIZER, 1).row({"text": ""})


def test_no_room_for_the_text_is_refused():
    with pytest.raises(TemplateError, match="leaves no room for the text; use fewer virtual tokens"):
        Template("{soft}{text} is", max_tokens=12).tokenize(TOKENIZER, 12).row({"text": "good"})


def test_max_tokens_must_be_positive():
    with pytest.raises(TemplateError, match="max_tokens is 0"):
        Template("{text}", 0)


@given(st.text(max_size=80), st.text(max_size=80), st.integers(20, 60))
def test_only_fields_are_shortened_and_the_longest_first(a, b, limit):
    tokenized = Template("{bos}{soft}{a} and {b}\nLabel:").tokenize(TOKENIZER, 5)
    whole, row = tokenized.row({"a": a, "b": b}), tokenized.row({"a": a, "b": b}, limit)
    assert len(tokenized.prefix) + len(row.ids) <= limit
    assert row.cut == len(whole.ids) - len(row.ids)
    assert row.ids[-len(tokens("\nLabel:")) :] == tuple(tokens("\nLabel:"))
    if row.cut:
        assert len(tokenized.prefix) + len(row.ids) == limit


def test_json_round_trip():
    template = Template("{bos}{soft}{text}", 128)
    assert Template.from_json(template.to_json()) == template

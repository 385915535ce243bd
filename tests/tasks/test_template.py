"""Templates: reading patterns, the tokenisation rule, placement and truncation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.errors import DataError, TemplateError, UnknownNameError
from softprompt.tasks import template
from softprompt.tasks.template import Bos, Field, Literal, Mask, Sep, Soft, Template, _levelled, text_in
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


def one_by_one(lengths, room):
    lengths = list(lengths)
    while sum(lengths) > room:
        lengths[lengths.index(max(lengths))] -= 1
    return lengths


@given(st.lists(st.integers(0, 60), max_size=7), st.integers(1, 200))
def test_fields_give_way_as_if_a_token_at_a_time_were_taken_from_the_longest(lengths, room):
    assert _levelled(lengths, room) == one_by_one(lengths, room)


def test_how_long_a_text_is_costs_nothing_to_cut():
    assert _levelled([10**12, 3, 10**12], 10) == [3, 3, 4]  # a turn a token would take days


def test_json_round_trip():
    template = Template("{bos}{soft}{text}", 128)
    assert Template.from_json(template.to_json()) == template


ENCODER = tiny_tokenizer("bert")
ROBERTA = tiny_tokenizer("roberta")
T5 = tiny_tokenizer("t5")


def test_sep_mask_and_bos_are_the_tokenizers():
    template = Template("{bos}{soft}{text}{sep}{mask}{sep}")
    assert [type(piece) for piece in template.pieces] == [Bos, Soft, Field, Sep, Mask, Sep]
    assert template.tokenize(ENCODER, 1).prefix == (ENCODER.cls_token_id, -1)
    row = template.tokenize(ENCODER, 1).row({"text": "good"})
    words = ENCODER.encode("good", add_special_tokens=False)
    assert row.ids == (*words, ENCODER.sep_token_id, ENCODER.mask_token_id, ENCODER.sep_token_id)
    assert row.masks == (2 + len(words) + 1,)


def test_sep_is_the_end_where_there_is_no_separator_and_nothing_where_there_is_neither():
    row = Template("{bos}{text}{sep}").tokenize(T5, 0)
    assert (row.prefix, row.row({"text": "good"}).ids[-1]) == ((), T5.eos_token_id)

    class Bare:
        bos_token_id = None

        def encode(self, text, *, add_special_tokens=True):
            return [9]

    bare = Template("{bos}{text}{sep}").tokenize(Bare(), 0)
    assert (bare.prefix, bare.row({"text": "x"}).ids) == ((), (9,))


def test_a_mask_that_the_tokenizer_lacks_is_refused():
    with pytest.raises(
        TemplateError, match=r"has a \{mask\} slot, but this backbone's tokenizer has no mask token; only"
    ):
        Template("{text} is {mask}").tokenize(TOKENIZER, 0)


def test_masks_are_the_slots_and_no_mask_that_stands_in_a_text():
    tokenized = Template("{mask}{a}{mask}{b}").tokenize(ENCODER, 0)
    row = tokenized.row({"a": "[MASK]", "b": "good [MASK]"})
    whole = tokenized.prefix + row.ids
    assert whole.count(ENCODER.mask_token_id) == 4
    assert row.masks == (0, 2)
    assert Template("{a}").tokenize(ENCODER, 0).row({"a": "[MASK]"}).masks == ()


@given(st.text(max_size=60), st.integers(14, 30))
def test_masks_stay_where_they_are_when_the_text_is_shortened(text, limit):
    tokenized = Template("{bos}{soft}{text} Label: {mask}{sep}").tokenize(ROBERTA, 2)
    row = tokenized.row({"text": text.replace("<", "")}, limit)
    (column,) = row.masks
    assert (tokenized.prefix + row.ids)[column] == ROBERTA.mask_token_id


def test_a_space_before_a_mask_belongs_to_the_mask():
    _, literal, mask = Template("{text} is: {mask}").pieces
    assert (literal, type(mask)) == (Literal(" is:"), Mask)
    row = Template("{bos}{text} is: {mask}{sep}").tokenize(ROBERTA, 0).row({"text": "good"})
    assert [ROBERTA.bos_token_id, *row.ids] == ROBERTA.encode("good is: <mask>")


@pytest.mark.parametrize("style", ["bert", "modernbert", "roberta", "t5"])
@pytest.mark.parametrize("kind", ["encoder", "encoder-decoder"])
def test_a_default_row_without_a_prompt_is_the_tokenizers_own(style, kind):
    tokenizer = tiny_tokenizer(style)
    tokenized = Template.default(["text"], "label", kind=kind).tokenize(tokenizer, 0)
    assert [*tokenized.prefix, *tokenized.row({"text": "a gripping film"}).ids] == tokenizer.encode("a gripping film")


def test_the_defaults():
    pair = ["first", "second"]
    assert Template.default(pair, "x", 64, kind="encoder") == Template("{bos}{soft}{first}{sep}{second}{sep}", 64)
    assert (
        Template.default(pair, "x", kind="encoder-decoder").pattern == "{bos}{soft}First: {first} Second: {second}{sep}"
    )
    assert (
        Template.default(["t"], "is_spam", kind="encoder", masked=True).pattern == "{bos}{soft}{t} Is spam: {mask}{sep}"
    )
    assert Template.default(["t"], "is_spam", kind="decoder").pattern == "{bos}{soft}T: {t}\nIs spam:"
    with pytest.raises(UnknownNameError, match="unknown kind of backbone `encodr`; did you mean `encoder`"):
        Template.default(["t"], "x", kind="encodr")


def test_the_patterns_of_old_read_as_they_did():
    """A tokenizer with a beginning-of-sequence token is given that one, whatever else it has."""
    assert Template("{bos}{text}").tokenize(ROBERTA, 0).prefix == (ROBERTA.bos_token_id,)
    assert Template("{bos}{text}").tokenize(TOKENIZER, 0).row({"text": "good"}).masks == ()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a text", r"a row is str \('a text'\), and a row is a mapping from column to text; give it as {'text': ...}"),
        (None, "a row is NoneType"),
        ({"text": None}, "the row holds None in `text`, which is not text"),
        ({"text": 3}, "the row holds 3 in `text`"),
    ],
)
def test_a_row_that_is_no_mapping_to_text_is_said(row, message):
    with pytest.raises(DataError, match=message):
        text_in(row, "text")


def test_every_field_is_read_by_that(monkeypatch):
    monkeypatch.setattr(template, "text_in", lambda row, field: "seen")
    assert Template("{text}").tokenize(TOKENIZER, 0).row({"text": "x"}).ids == tuple(tokens("seen"))

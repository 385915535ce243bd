"""Readouts beside label words: their words, what they refuse, and their JSON."""

import pytest

from softprompt.errors import ConfigError, DataError, TemplateError, UnknownNameError
from softprompt.tasks.chat import ChatTemplate
from softprompt.tasks.free_text import Text
from softprompt.tasks.kinds import features_of, kind_of
from softprompt.tasks.readout import LabelWords, Readout, readout_from_json
from softprompt.tasks.readout_kinds import Scalar, YesNo
from softprompt.tasks.tags import TaggedTemplate, TokenTags, joined, words_of
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_tokenizer

EVERY = (
    LabelWords.from_labels(["ham", "spam"]),
    YesNo.from_labels(["toxic"]),
    Scalar(-1.0, 5.0, (" no", " yes")),
    Text(30, ("\n", "###")),
    TokenTags.from_tags(["B-PER", "I-PER", "O"], column="words"),
)


@pytest.mark.parametrize("readout", EVERY, ids=lambda readout: readout.kind)
def test_every_readout_comes_back_from_json(readout):
    assert isinstance(readout, Readout)
    assert readout_from_json(readout.to_json()) == readout


def test_an_unknown_readout_offers_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown readout `token-tag`; did you mean `token-tags`"):
        readout_from_json({"kind": "token-tag"})


def test_rows_of_a_learned_head():
    assert [readout.outputs for readout in EVERY] == [2, 1, 2, 0, 3]
    assert [len(readout.labels) for readout in EVERY] == [2, 1, 0, 0, 3]


def test_what_a_prompt_file_must_require():
    plain = Template("{soft}{text}")
    assert [sorted(features_of(r, plain)) for r in EVERY] == [[], ["yes-no"], ["scalar"], ["text"], ["token-tags"]]
    assert features_of(EVERY[3], ChatTemplate()) == {"chat", "text"}
    assert features_of(EVERY[0], Template("{bos}{soft}{text}{mask}{sep}")) == {"mask", "sep"}
    assert features_of(EVERY[1], Template("{soft}{text}{sep}")) == {"sep", "yes-no"}


def test_the_kind_is_told_from_readout_and_template():
    plain, choices = Template("{text}"), Template("{question} {choices}")
    found = [kind_of(readout, plain) for readout in EVERY]
    assert found == ["classification", "multi-label", "regression", "generation", "tagging"]
    assert kind_of(EVERY[0], choices) == "choice"
    assert kind_of(EVERY[3], Template("{context} {question}")) == "extraction"
    assert kind_of(EVERY[3], ChatTemplate()) == "chat"


def test_yes_no_asks_for_each_label():
    assert YesNo.from_labels(["card_lost", "b"], {"b": "bad:"}).words == (" card lost?", " bad:")
    assert YesNo.from_labels(["a"], leading_space=False).words == ("a?",)
    with pytest.raises(UnknownNameError, match="unknown label `c`"):
        YesNo.from_labels(["a"], {"c": "x"})


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: YesNo((), ()), DataError, r"found 0 label\(s\) \(\); there must be at least 1"),
        (lambda: YesNo(("a",), (" x",), " yes", " yes"), DataError, "`yes` and `no` have the same words `yes`"),
        (lambda: YesNo(("a", "b"), (" x", " x")), DataError, "`a` and `b` have the same words `x`"),
        (lambda: YesNo(("a", "a"), (" x", " y")), ConfigError, "2 labels and 2 words"),
        (lambda: Scalar(1.0, 1.0), DataError, "the bounds are 1.0 and 1.0; give two numbers, the smaller one first"),
        (lambda: Scalar(0.0, float("nan")), DataError, "the bounds are 0.0 and nan"),
        (lambda: Scalar(0.0, 1.0, (" a", " a")), DataError, "`low` and `high` have the same words"),
        (lambda: Scalar(0.0, 1.0).share(1.5), DataError, "the value 1.5 is outside of 0.0 to 1.0"),
        (lambda: Scalar.from_values([2.0, 2.0]), DataError, r"train has 1 different value\(s\) to predict"),
        (lambda: Text(0), ConfigError, "max_new_tokens is 0; it is 1 to 16,384"),
        (lambda: Text(5, ("",)), ConfigError, "a stop is empty"),
        (lambda: TokenTags(("O",), (" o",)), DataError, r"found 1 tag\(s\) \(O\); there must be at least 2"),
        (lambda: TokenTags.from_tags(["a", "b"], {"x": "y"}), UnknownNameError, "unknown tag `x`"),
    ],
)
def test_readouts_that_cannot_be(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_number_is_a_share_of_its_bounds():
    scalar = Scalar.from_values([1.0, 3.0, 5.0], {"low": "bad", "high": "good"})
    assert (scalar.low, scalar.high, scalar.words, scalar.share(2.0)) == (1.0, 5.0, (" bad", " good"), 0.25)


def test_a_target_ends():
    tokenizer = tiny_tokenizer()
    text = Text.for_targets(["", "x"])
    assert text.max_new_tokens == 16
    assert Text.for_targets(["é" * 10_000]).max_new_tokens == 1024
    assert text.target("good film", tokenizer) == (*tokenizer.encode(" good film"), tokenizer.eos_token_id)
    assert text.target("", tokenizer) == (tokenizer.eos_token_id,)
    tokenizer.eos_token = None
    stop = tokenizer.encode("\n")
    assert Text(5, ("\n",), lead="").target("good", tokenizer) == (*tokenizer.encode("good"), *stop)
    with pytest.raises(TemplateError, match="no end-of-sequence token and the readout no stop"):
        text.target("good", tokenizer)


def test_words_of_tags():
    tags = ["B-LOC", "I-LOC", "E-X_y", "S-X_y", "O", "NOUN"]
    words = (" location", " inside location", " end x y", " single x y", " outside", " noun")
    assert TokenTags.from_tags(tags).words == words
    assert TokenTags.from_tags(["a", "A"]).words == (" a", " A")  # names that speak alike stay as they are
    assert TokenTags.from_tags(["a", "b"]).outside == "a"
    assert EVERY[4].outside == "O"


def test_words_and_their_text():
    assert joined(["10 000", " Euro\t"], "here") == "10\u00a0000 Euro"
    assert words_of("10\u00a0000 \n Euro") == ("10\u00a0000", "Euro")
    with pytest.raises(DataError, match="here has no words to tag"):
        joined([], "here")
    with pytest.raises(DataError, match="here: word 2 of 2 is empty; take it out with its tag"):
        joined(["a", " "], "here")


def tagged(pattern="{bos}{soft}Text: {tokens}\nTags: {tokens}"):
    return TaggedTemplate(Template(pattern), tiny_tokenizer(), 3, "tokens")


@pytest.mark.parametrize("pattern", ["{bos}{soft}Text: {tokens}\nTags: {tokens}", "{soft}{tokens} {x} ->"])
def test_each_word_ends_where_its_tokens_do(pattern):
    tokenizer, chat = tiny_tokenizer(), tagged(pattern)
    values = {"tokens": "The gripping  film isn't bad", "x": "and more"}
    row = chat.tagged(values)
    assert row.ids == chat.row(values).ids
    assert len(row.ends) == 5
    start = row.ends[0] + 1
    for word, begin, end in zip(["gripping", "film", "isn't", "bad"], row.ends, row.ends[1:], strict=False):
        assert tokenizer.decode(row.ids[begin + 1 : end + 1]) == f" {word}"
    assert tokenizer.decode(row.ids[:start]).endswith("The")


def test_words_beyond_the_limit_have_no_end():
    template, values = tagged(), {"tokens": "good " * 30}
    full = template.tagged(values)
    limit = len(template.prefix) + len(full.ids) - 20
    short = template.tagged(values, limit)
    assert (len(full.ends), short.cut) == (30, 20)
    assert len(short.ends) < 30
    assert template.tagged({"tokens": ""}).ends == ()


def test_a_template_must_show_the_tagged_column():
    with pytest.raises(TemplateError, match=r"does not show the tagged column; write {tokens} into it"):
        tagged("{soft}{text}")

"""Text that is told while it is written: nothing is taken back, nothing is missing, and stops are no part of it."""

from types import SimpleNamespace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from softprompt.errors import ConfigError
from softprompt.modeling.growing_text import GrowingText
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.modeling.sampling import Sampling
from softprompt.modeling.writing import Writing
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.template import Template, TokenRow
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.tiny_tokenizers import STYLES, tiny_tokenizer

MODEL = PromptedModel(tiny_backbone("llama"))
TEMPLATE = Template("{bos}{text} is")
TEXTS = (
    "a gripping film",
    "naïve café",
    "語は長い。🙂 ok",
    "👩‍👩‍👧 done",
    "don ' t stop . now",
    "  two  spaces\n\n",
    "",
)


def sentencepiece():
    """A tokenizer as Llama 2 has it: a space at the front that decoding takes off, and bytes for what it lacks."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdefghijklmnopqrstuvwxyz.'"]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


TOKENIZERS = {**{style: tiny_tokenizer(style) for style in STYLES}, "sentencepiece": sentencepiece()}


def decoded(tokenizer, tokens):
    return tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def told(text, tokens):
    """Every (text, tokens) of `fresh`, asked after each token and at the end, and whether a stop came."""
    pieces = []
    for count, token in enumerate(tokens, start=1):
        stopped = text.add(token)
        if stopped or count == len(tokens):
            stopped = text.end()
            return [*pieces, text.fresh(count, ended=True)], stopped
        pieces.append(text.fresh(count, ended=False))
    stopped = text.end()
    return [text.fresh(0, ended=True)], stopped


@pytest.mark.parametrize("style", TOKENIZERS)
@pytest.mark.parametrize("words", TEXTS)
def test_what_is_told_is_the_whole_decoded(style, words):
    tokenizer = TOKENIZERS[style]
    tokens = tokenizer.encode(words, add_special_tokens=False)
    text = GrowingText(tokenizer, "", ())
    pieces, _ = told(text, tokens)
    assert "".join(piece for piece, _ in pieces) == decoded(tokenizer, tokens) == text.whole()
    assert [at for _, which in pieces for at in which] == list(range(len(tokens)))
    assert not any("\ufffd" in piece for piece, _ in pieces)


@pytest.mark.parametrize("style", ["decoder", "bert", "modernbert", "roberta", "t5"])
@settings(max_examples=60, deadline=None)
@given(tokens=st.lists(st.integers(3, 250), max_size=40))
def test_any_tokens_at_all_are_told_as_the_whole(style, tokens):
    tokenizer = TOKENIZERS[style]
    text = GrowingText(tokenizer, "", ())
    pieces, _ = told(text, tokens)
    whole = decoded(tokenizer, tokens)
    assert "".join(piece for piece, _ in pieces) == whole == text.whole()
    assert [at for _, which in pieces for at in which] == list(range(len(tokens)))


@settings(max_examples=100, deadline=None)
@given(words=st.text(max_size=30))
def test_any_text_is_told_as_it_is(words):
    assume("\ufffd" not in words)
    for style in ("decoder", "sentencepiece"):
        tokenizer = TOKENIZERS[style]
        tokens = tokenizer.encode(words, add_special_tokens=False)
        pieces, _ = told(GrowingText(tokenizer, "", ()), tokens)
        assert "".join(piece for piece, _ in pieces) == decoded(tokenizer, tokens)
        assert not any("\ufffd" in piece for piece, _ in pieces)


@settings(max_examples=150, deadline=None)
@given(
    words=st.text(alphabet="ab \n", max_size=25),
    stops=st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3),
    lead=st.sampled_from(["", " ", "ab"]),
)
def test_no_stop_is_ever_told_and_what_is_told_stays(words, stops, lead):
    tokenizer = TOKENIZERS["decoder"]
    tokens = tokenizer.encode(words, add_special_tokens=False)
    pieces, stopped = told(GrowingText(tokenizer, lead, stops), tokens)
    found = "".join(piece for piece, _ in pieces)
    body = words.removeprefix(lead)
    first = min((body.find(stop) for stop in stops if stop in body), default=None)
    assert stopped == (first is not None)
    assert body.startswith(found)
    assert not any(stop in found for stop in stops)
    if first is None:
        assert found == body


def test_the_beginning_of_a_stop_is_held_back_with_its_tokens():
    tokenizer = TOKENIZERS["sentencepiece"]
    tokens = [tokenizer.convert_tokens_to_ids(letter) for letter in "xabxabc"]
    text = GrowingText(tokenizer, "", ("abc",))
    pieces, stopped = told(text, tokens)
    assert [piece for piece, _ in pieces] == ["x", "", "", "abx", "", "", ""]
    assert [list(which) for _, which in pieces] == [[0], [], [], [1, 2, 3], [], [], [4, 5, 6]]
    assert stopped
    assert text.whole() == "xabx"


def test_the_lead_is_held_back_until_it_is_told_apart():
    tokenizer = TOKENIZERS["sentencepiece"]
    for word, lead, expected in (("abq", "ab", ["", "", "q"]), ("aq", "ab", ["", "aq"]), ("a", "ab", ["a"])):
        tokens = [tokenizer.convert_tokens_to_ids(letter) for letter in word]
        pieces, _ = told(GrowingText(tokenizer, lead, ()), tokens)
        assert [piece for piece, _ in pieces] == expected
        assert [at for _, which in pieces for at in which] == list(range(len(tokens)))


def test_half_a_character_waits_for_the_other_half():
    tokenizer = TOKENIZERS["decoder"]
    tokens = tokenizer.encode("é🙂", add_special_tokens=False)
    pieces, _ = told(GrowingText(tokenizer, "", ()), tokens)
    assert [piece for piece, _ in pieces] == ["", "é", "", "", "", "🙂"]
    assert [list(which) for _, which in pieces] == [[], [0, 1], [], [], [], [2, 3, 4, 5]]
    pieces, _ = told(GrowingText(tokenizer, "", ()), tokens[:-1])
    assert "".join(piece for piece, _ in pieces) == "é\ufffd"  # nothing more came


def test_bytes_that_are_no_characters_do_not_pile_up():
    tokenizer = TOKENIZERS["decoder"]
    seen = []
    counting = SimpleNamespace(decode=lambda tokens, **k: seen.append(len(tokens)) or tokenizer.decode(tokens, **k))
    (broken,) = tokenizer.encode("é", add_special_tokens=False)[:1]
    pieces, _ = told(GrowingText(counting, "", ()), [broken] * 300)
    assert "".join(piece for piece, _ in pieces) == "\ufffd" * 300
    assert max(seen) <= 128


def bound(readout=None, lead=" "):
    return MODEL.bare(TEMPLATE, readout or Text(6, stop=("STOP",), lead=lead))


def take(writing, words):
    for token in MODEL.backbone.tokenizer.encode(words, add_special_tokens=False):
        if writing.ended is None:
            writing.take(token, -0.5)
    return writing


def test_an_answer_ends_by_its_end_a_stop_or_its_length():
    ended = Writing(bound())
    ended.take(MODEL.backbone.eos, -1.0)
    assert (ended.ended, ended.written().text, ended.written().finished) == ("stop", "", True)
    stopped = take(Writing(bound(Text(60, stop=("STOP",)))), " goodSTOP bad")
    assert (stopped.ended, stopped.written().text) == ("stop", "good")
    own = take(Writing(bound(Text(60)), stop=["!", "?"]), " good?!")
    assert (own.ended, own.written().text) == ("stop", "good")
    full = take(Writing(bound(Text(3))), " good bad worse dull")
    assert (full.ended, len(full.tokens), full.written().finished) == ("length", 3, False)
    short = take(Writing(bound(Text(60)), max_tokens=2), " good bad worse dull")
    assert (short.ended, len(short.tokens)) == ("length", 2)
    assert Writing(bound(Text(3)), max_tokens=50).most == 3
    both = take(Writing(bound(Text(60)), max_tokens=1, stop=["!"]), "!")
    assert (both.ended, both.written().text) == ("stop", "")


def test_what_has_been_written_is_told_before_the_end_too():
    writing = Writing(bound(Text(60, stop=("zz",))))
    assert writing.fresh() == ("", range(0))
    take(writing, " good z")
    assert writing.ended is None
    assert writing.written().text == "good z"
    assert writing.fresh()[0] == "good "
    assert writing.written().log_probability == pytest.approx(-0.5 * len(writing.tokens))


def test_a_row_counts_in_front_of_its_answer_and_is_seen_by_a_penalty():
    some = bound()
    writing = Writing(some, sampling=Sampling(repetition_penalty=1.2))
    writing.behind(TokenRow((5, -1, 7, 7), 3))
    assert (writing.cut, writing.prompt_tokens) == (3, len(some.template.prefix) + 4)
    assert writing.seen == {5, 7}
    writing.take(9, -1.0)
    assert writing.seen == {5, 7, 9}
    writing.behind(TokenRow((5, -1, 7, 7, 9), 3))  # it goes on elsewhere
    assert writing.prompt_tokens == len(some.template.prefix) + 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0; an answer has at least 1 token"),
        ({"stop": ("a", "")}, r"stop is \('a', ''\); give a sequence of texts"),
        ({"stop": "end"}, "stop is 'end'"),
        ({"likeliest": 21}, "likeliest is 21; it is 0 to 20 tokens"),
        ({"likeliest": -1}, "likeliest is -1"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Writing(bound(), **settings)


def test_a_prompt_that_chooses_is_not_written_with():
    with pytest.raises(ConfigError, match="text was asked of a prompt whose answers are chosen, not written"):
        Writing(bound(LabelWords.from_labels(["good", "bad"])))

"""Encoders and encoder-decoders behind `PromptedModel`: where a row is read, and what is refused by name."""

import pytest
import torch

from softprompt.errors import IncompatiblePromptError, TemplateError, UnsupportedBackboneError
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.forward import run_rows
from softprompt.modeling.prefixes import Prefixes
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.modeling.readings import Place, at_ends
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.chat import ChatTemplate
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.readout_kinds import Scalar, YesNo
from softprompt.tasks.tags import TokenTags
from softprompt.tasks.template import Template, TokenRow
from softprompt.testing.row_conformance import MASKED, PATTERNS, WORDS, prompt, rows
from softprompt.testing.tiny import tiny_backbone

LONG = LabelWords.from_labels(["positive", "negative indeed"])


@pytest.fixture(scope="module")
def bert():
    return tiny_backbone("bert")


@pytest.fixture(scope="module")
def minilm():
    return tiny_backbone("minilm")


@pytest.fixture(scope="module")
def t5():
    return tiny_backbone("t5")


def rows_site(backbone, length=3, **more):
    return {"input": torch.ones(length, backbone.embedding_size), **more}


def head(backbone, count=2):
    return {"readout.weight": torch.ones(count, backbone.hidden_size), "readout.bias": torch.zeros(count)}


def make(backbone, readout=WORDS, pattern=PATTERNS["prefix"], **more):
    return BoundPrompt.make(backbone, rows_site(backbone, **more), Template(pattern), readout)


@pytest.mark.parametrize(
    ("pattern", "deep", "column"),
    [
        ("{bos}{soft}{text} {mask}{sep}", False, 1 + 3 + 1),
        ("{bos}{soft}{text} {mask}{sep}", True, 1 + 1),
        ("{bos}{mask}{soft}{text}{sep}", True, 1),
        ("{bos}{soft}{mask}{text}{sep}", True, 1),
        ("{bos}{soft}{mask}{text}{sep}", False, 1 + 3),
    ],
)
def test_a_row_is_read_where_its_mask_stands(bert, pattern, deep, column):
    some = prompt(bert, 3, pattern=pattern, deep=deep)
    model, bound = PromptedModel(bert), BoundPrompt.of(bert, some)
    row = model.encode({"text": "film"}, bound)
    batch, (place,) = model._batching.batch([row], [bound], False)
    assert place.read == (column,)
    assert batch.ids[0][column] == bert.special.mask


def test_a_pooled_row_is_the_mean_of_all_but_the_soft_tokens(minilm):
    model, bound = PromptedModel(minilm), make(minilm, pattern=PATTERNS["interleaved"], **head(minilm))
    row = model.encode({"text": "a film"}, bound)
    batch, (place,) = model._batching.batch([row], [bound], False)
    assert [batch.ids[0][column] < 0 for column in range(len(batch.ids[0]))].count(True) == 3
    hidden = run_rows(minilm, batch).hidden
    wanted = torch.stack([hidden[0, c] for c, token in enumerate(batch.ids[0]) if token >= 0]).mean(0)
    torch.testing.assert_close(at_ends(hidden, [place])[0], wanted)


def test_rows_read_at_one_place_and_at_several_share_a_batch():
    hidden = torch.arange(12.0).reshape(2, 3, 2)
    row = TokenRow((5, 6, 7), 0)
    found = at_ends(hidden, [Place(row, 0), Place(row, 0, (0, 2))])
    assert found.tolist() == [[4.0, 5.0], [8.0, 9.0]]


def test_an_encoder_has_no_prefix_to_share(bert):
    assert [p.past for p in Prefixes(bert).run([make(bert, **head(bert))])] == [None]
    deep = BoundPrompt.of(bert, prompt(bert, 4, deep=True))
    (prefix,) = Prefixes(bert).run([deep])
    assert (prefix.length, prefix.past[0][0].shape[2]) == (4, 4)


def test_words_around_a_deep_prompt_keep_the_positions_of_the_template(bert, monkeypatch):
    """`{bos}` comes first, the text behind the P slots of the prompt, as if its rows stood there."""
    some, other = prompt(bert, 4, deep=True), prompt(bert, 2)
    model, seen = PromptedModel(bert), []
    run = bert.run
    monkeypatch.setattr(bert, "run", lambda e, **kw: seen.append(kw["positions"]) or run(e, **kw))
    model.score([{"text": "film"}, {"text": "film"}], [some, other])
    deep, plain = seen[0].tolist()
    assert deep[:3] == [0, 5, 6]
    assert plain[:5] == [0, 1, 2, 3, 4]


def test_all_answers_are_as_likely_where_there_are_no_words_for_them(minilm, bert):
    for backbone, pattern, readout in ((minilm, "{text}", WORDS), (bert, "{text} {mask}", LONG)):
        model = PromptedModel(backbone)
        found = model.score_labels(rows(2), model.bare(Template(pattern), readout))
        torch.testing.assert_close(found.log_probabilities.exp(), torch.full((2, 2), 0.5))
        assert found.hidden.abs().max() > 0.01  # what a linear probe stands on
    model = PromptedModel(bert)
    asked = model.score_labels(rows(2), model.bare(Template("{text} {mask}"), WORDS)).log_probabilities
    assert (asked[:, 0] - asked[:, 1]).abs().max() > 1e-3


def test_words_are_refused_without_a_head(minilm):
    with pytest.raises(
        UnsupportedBackboneError, match=r"`tiny-minilm` \(BERT, encoder\) has no head that scores words; "
    ):
        make(minilm)


def test_words_are_refused_without_a_mask(bert):
    with pytest.raises(
        TemplateError, match=r"says words where a mask stands, and the template `\{bos\}\{soft\}\{text\}"
    ):
        make(bert)


def test_words_of_several_tokens_are_refused_at_a_mask(bert):
    with pytest.raises(
        TemplateError, match=r"the word `negative indeed` is \d+ tokens for `tiny-bert`.*learned_rows=true"
    ):
        make(bert, LONG, MASKED["prefix"])
    assert PromptedModel(bert).read(rows(2), make(bert, LONG, MASKED["prefix"], **head(bert)))


def test_questions_behind_a_row_are_refused(bert):
    labels = YesNo.from_labels(["good", "bad"])
    with pytest.raises(UnsupportedBackboneError, match="puts nothing behind a row, where each label's yes or no"):
        make(bert, labels, MASKED["prefix"])
    found = PromptedModel(bert).read(rows(2), make(bert, labels, MASKED["prefix"], **head(bert)))
    assert found.log_probabilities[0].shape == (2,)


def test_a_number_is_read_at_the_mask_by_its_two_words(bert):
    readout = Scalar(0.0, 5.0, words=("a", "b"))
    bound = make(bert, readout, MASKED["prefix"])
    found = PromptedModel(bert).read(rows(3), bound).log_probabilities
    torch.testing.assert_close(torch.stack(list(found)).exp().sum(1), torch.ones(3))


def test_an_encoder_writes_no_text(bert):
    with pytest.raises(
        UnsupportedBackboneError, match=r"`tiny-bert` \(BERT, encoder\) writes no text; take a decoder or"
    ):
        make(bert, Text(8))


def test_an_encoder_fills_in_one_mask(bert):
    with pytest.raises(TemplateError, match=r"has 2 \{mask\} slots, and one is read; leave one"):
        make(bert, pattern="{soft}{mask}{text} {mask}")


def test_tags_of_an_encoder_decoder_are_refused(t5):
    with pytest.raises(
        UnsupportedBackboneError, match="answers in its decoder, where no word of the row stands; tag with"
    ):
        make(t5, TokenTags.from_tags(["B-X", "O"], column="text"))


def test_conversations_of_an_encoder_decoder_are_refused():
    backbone = tiny_backbone("t5")
    backbone.tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    with pytest.raises(UnsupportedBackboneError, match=r"holds no conversations, which are read from left to right"):
        BoundPrompt.make(backbone, rows_site(backbone), ChatTemplate(), Text(8))


@pytest.mark.parametrize("family", ["distilbert", "modernbert"])
def test_keys_and_values_are_refused_where_the_layers_take_none(family):
    backbone, layer = tiny_backbone(family), torch.ones(4, 3, 12)
    tensors = {f"layers.{n}.{part}": layer for n in range(2) for part in ("key", "value")}
    with pytest.raises(
        IncompatiblePromptError, match=rf"`tiny-{family}` \(.*encoder\) takes none from outside; train rows"
    ):
        BoundPrompt.make(backbone, {**tensors, **head(backbone)}, Template(PATTERNS["prefix"]), WORDS)


def test_keys_and_values_beside_rows_are_refused_in_an_encoder(bert):
    layers = prompt(bert, 3, deep=True).tensors
    with pytest.raises(IncompatiblePromptError, match="has keys and values and rows at the input too"):
        make(bert, **layers)


def test_rows_of_an_encoder_decoder_are_refused_elsewhere(bert):
    tensors = {"encoder.input": torch.ones(2, bert.embedding_size), **head(bert)}
    with pytest.raises(
        IncompatiblePromptError, match=r"rows for the encoder of an encoder-decoder, and `tiny-bert` is none"
    ):
        BoundPrompt.make(bert, tensors, Template(PATTERNS["prefix"]), WORDS)


def test_a_file_of_an_encoder_decoder_says_that_it_needs_the_encoder(t5):
    some = prompt(t5, 3)
    assert some.requires == ("encoder", "sep")  # and the slot that closes its rows
    again = SoftPrompt.from_bytes(some.to_bytes())
    first, second = (PromptedModel(t5).score(rows(2), each) for each in (some, again))
    assert [a.probabilities for a in first] == [a.probabilities for a in second]


def test_a_kept_prompt_of_an_encoder_decoder_names_the_encoder(t5):
    some = SoftPrompt(rows_site(t5), Template(PATTERNS["prefix"]), WORDS, t5.fingerprint)
    with pytest.raises(
        IncompatiblePromptError, match=r"has rows at `input`, and those of `tiny-t5` .* `encoder.input`"
    ):
        PromptedModel(t5).score(rows(1), some)


def test_an_answer_takes_room_in_the_decoder_and_none_in_the_row():
    bart = tiny_backbone("bart")
    bound = make(bart, Text(200))
    assert bound.limit(bart) == 256
    with pytest.raises(
        TemplateError, match=r"the longest answer takes 302 of the 256 positions of `tiny-bart`'s decoder"
    ):
        make(bart, Text(300))
    assert make(tiny_backbone("t5"), Text(300)).limit(tiny_backbone("t5")) is None

"""What the meeting point refuses, reports and remembers; the families have their own suite."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from softprompt.backbones import heads
from softprompt.errors import ConfigError, DataError, IncompatiblePromptError, TemplateError
from softprompt.modeling import prompted_model
from softprompt.modeling.flight import Flight
from softprompt.modeling.prompted_model import PromptedModel, answer_of
from softprompt.modeling.text import token_log_probabilities
from softprompt.tasks.chat import ChatTemplate
from softprompt.tasks.free_text import Text
from softprompt.tasks.messages import Message, as_json
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.tags import TokenTags
from softprompt.tasks.task import Example
from softprompt.tasks.template import Template
from softprompt.testing.conformance import prompt, rows
from softprompt.testing.tiny import tiny_backbone

BACKBONE = tiny_backbone("llama")


def test_one_prompt_for_all_or_one_for_each():
    with pytest.raises(ConfigError, match="3 rows and 2 prompts"):
        PromptedModel(BACKBONE).score(rows(3), [prompt(BACKBONE, 2)] * 2)


def test_a_prompt_of_another_backbone_is_refused():
    other = tiny_backbone("gpt2")
    with pytest.raises(IncompatiblePromptError):
        PromptedModel(BACKBONE).score(rows(1), prompt(other, 2))


def test_other_weights_are_refused_unless_allowed():
    sister = prompt(tiny_backbone("llama", seed=1), 2)
    with pytest.raises(IncompatiblePromptError, match="allow"):
        PromptedModel(BACKBONE).score(rows(1), sister)
    assert PromptedModel(BACKBONE).score(rows(1), sister, allow_other_weights=True)


def test_a_prompt_that_does_not_fit_is_refused():
    with pytest.raises(TemplateError, match="use fewer virtual tokens"):
        PromptedModel(BACKBONE).score(rows(1), prompt(BACKBONE, 300))


@pytest.fixture(scope="module")
def padded():
    """A backbone whose tokenizer got a token that its embedding table has no row for, as finetunes have it."""
    found = tiny_backbone("llama")
    found.tokenizer.add_tokens(["[PAD]"], special_tokens=True)
    found.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    return found


LACKED = r"has the token `\[PAD\]` \(300\), and the embedding table of `tiny-llama` ends at 299; "


def test_a_row_that_names_a_token_without_an_embedding_is_refused(padded):
    model, some = PromptedModel(padded), prompt(padded, 5)
    with pytest.raises(DataError, match="the row " + LACKED + "take it out of the text"):
        model.score([{"text": "a [PAD] film"}], some)
    assert model.score([{"text": "a film"}], some)
    bound = model.bind(replace(some, template=ChatTemplate(), readout=Text(8), requires=()))
    for asked, answer in (("a film", "good [PAD]"), ("a [PAD] film", "good")):
        with pytest.raises(DataError, match="the row " + LACKED):
            model.lesson(Example({"messages": as_json([Message("user", asked)])}, answer), bound)
    assert model.lesson(Example({"messages": as_json([Message("user", "a film")])}, "good"), bound)


def test_tagged_rows_with_such_a_token_are_refused_too(padded):
    model = PromptedModel(padded)
    tagging = model.bare(Template("{bos}{tokens} | {tokens}"), TokenTags.from_tags(["B-PER", "O"]))
    with pytest.raises(DataError, match="the row " + LACKED):
        model.encode({"tokens": "Ann [PAD] sings"}, tagging)


@pytest.mark.parametrize("pattern", ["{bos}[PAD]{soft}{text}\nLabel:", "{bos}{soft}{text}[PAD]\nLabel:"])
def test_a_template_whose_words_have_such_a_token_is_refused(padded, pattern):
    with pytest.raises(TemplateError, match=r"the template `.*\n.*` " + LACKED + "leave it out"):
        PromptedModel(padded).bind(replace(prompt(padded, 5), template=Template(pattern)))


def test_text_longer_than_the_model_is_cut_and_counted():
    long = {"text": "good " * 500}
    answer = PromptedModel(BACKBONE).score([long], prompt(BACKBONE, 5))[0]
    assert answer.cut > 200
    assert sum(answer.probabilities.values()) == pytest.approx(1)


def test_temperature_and_abstention():
    plain = prompt(BACKBONE, 5)
    sharp, unsure = replace(plain, temperature=0.1), replace(plain, temperature=20.0, abstain=0.9)
    model = PromptedModel(BACKBONE)
    one, two, three = (model.score(rows(1), p)[0] for p in (plain, sharp, unsure))
    assert one.label == two.label == three.label
    assert two.probability > one.probability > three.probability
    assert three.abstained
    assert not one.abstained


def test_empty_input_gives_no_answers():
    assert PromptedModel(BACKBONE).score([], prompt(BACKBONE, 2)) == []


def test_a_prefix_is_run_once_for_all_calls():
    backbone = tiny_backbone("llama")
    calls = []
    inner = backbone.run
    backbone.run = lambda embeddings, **k: calls.append(embeddings.shape) or inner(embeddings, **k)
    model = PromptedModel(backbone)
    for _ in range(3):
        model.score(rows(2), prompt(backbone, 7))
    assert [shape[0] for shape in calls] == [1, 2, 2, 2]  # the prefix once, then each call's rows


def test_bare_scoring_uses_no_virtual_tokens():
    model = PromptedModel(BACKBONE)
    scores = model.score_labels(rows(3), model.bare(Template("{text} is"), LabelWords.from_labels(["good", "bad"])))
    assert scores.log_probabilities.shape == (3, 2)
    assert scores.hidden.shape == (3, BACKBONE.embedding_size)
    assert torch.allclose(scores.log_probabilities.exp().sum(1), torch.ones(3))


def test_each_row_is_written_with_its_own_prompt():
    texts = replace(prompt(BACKBONE, 2), readout=Text(3))
    with pytest.raises(ConfigError, match="3 rows and 2 prompts"):
        PromptedModel(BACKBONE).write(rows(3), [texts] * 2)
    assert len(PromptedModel(BACKBONE).write(rows(2), [texts] * 2)) == 2


def test_prompts_stay_bound_until_others_are_used(monkeypatch):
    model = PromptedModel(BACKBONE)
    first, second, third = (prompt(BACKBONE, 2, seed=seed) for seed in range(3))
    bound, other = model.bind(first), model.bind(second)
    monkeypatch.setattr(prompted_model, "_BOUND_BYTES", bound.bytes + other.bytes)
    assert model.bind(first) is bound
    model.bind(third)  # the second goes, which was not used since
    assert model.bind(first) is bound
    assert model.bind(second) is not other
    bound = model.bind(first)
    model.forget(first.digest)
    assert model.bind(first) is not bound


def test_threads_that_bind_one_prompt_get_the_same():
    model, some = PromptedModel(BACKBONE), prompt(BACKBONE, 2)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: model.bind(some), range(16)))
    assert {id(each) for each in found} == {id(model.bind(some))}


def test_what_is_read_becomes_the_answer_that_scoring_gives():
    kept = replace(prompt(BACKBONE, 5), temperature=2.5, abstain=0.9)
    model = PromptedModel(BACKBONE)
    bound = model.bind(kept)
    encoded = model.encode(rows(1)[0], bound)
    (read,) = model.begin([encoded], [bound], [None], Flight(BACKBONE))
    (scored,) = model.score(rows(1), kept)
    assert answer_of(kept, rows(1)[0], read, encoded.cut) == answer_of(bound, rows(1)[0], read, encoded.cut) == scored
    assert scored.abstained


def test_the_loss_of_a_text_is_the_same_when_the_vocabulary_is_read_in_slices(monkeypatch):
    backbone = tiny_backbone("llama", dtype=torch.bfloat16)
    states = torch.randn(5, backbone.embedding_size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = []
    for size in (1 << 20, 7 * 4 * backbone.embedding_size):
        monkeypatch.setitem(heads._AT_ONCE, "cpu", size)
        terms = token_log_probabilities(backbone, states, torch.tensor([3, 50, 299, 0, 3]))
        found.append((terms, *torch.autograd.grad(terms.sum(), states)))
    (whole, slope), (sliced, same_slope) = found
    torch.testing.assert_close(sliced, whole)
    torch.testing.assert_close(same_slope, slope)

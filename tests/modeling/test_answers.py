"""Answers of every kind in one call, as lines of a file, and joined into those of an ensemble."""

from __future__ import annotations

import csv
import io
import json

import pytest
import torch

from softprompt.errors import ConfigError, UnknownNameError
from softprompt.modeling.answers import (
    Answer,
    LabelSet,
    NumberAnswer,
    TagsAnswer,
    TextAnswer,
    answer,
    label_set,
    log_no,
    yes_shares,
)
from softprompt.modeling.ensemble import check_members, how_of, joined, score_ensemble
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.modeling.spans import Span, spans_of, write_spans
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.serving.answer_file import Layout
from softprompt.serving.engine import Engine
from softprompt.serving.streaming import Asked, answer_stream
from softprompt.tasks.chat import ChatTemplate
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.readout_kinds import Scalar, YesNo
from softprompt.tasks.tags import TokenTags
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_backbone

READOUTS = {
    "label-words": LabelWords.from_labels(["ham", "spam"]),
    "yes-no": YesNo.from_labels(["warm", "dull"]),
    "scalar": Scalar(1.0, 5.0, (" awful", " great")),
    "text": Text(5),
    "token-tags": TokenTags.from_tags(["B-Q", "I-Q", "O"], column="text"),
}
CLASSES = {
    "label-words": Answer,
    "yes-no": LabelSet,
    "scalar": NumberAnswer,
    "text": TextAnswer,
    "token-tags": TagsAnswer,
}
ROWS = [{"text": f"{word} film"} for word in ("a good", "the bad", "one more dull")]


@pytest.fixture(scope="module")
def model():
    return PromptedModel(tiny_backbone("gemma3"))


def prompt(model, readout, seed=0, pattern="{bos}{soft}Text: {text}\nLabel:", **more):
    rows = torch.randn(2 + seed % 3, model.backbone.embedding_size, generator=torch.Generator().manual_seed(seed))
    return SoftPrompt({"input": rows}, Template(pattern), readout, model.backbone.fingerprint, **more)


def test_prompts_of_all_kinds_answer_in_one_call_as_they_do_alone(model):
    prompts = [prompt(model, readout, seed) for seed, readout in enumerate(READOUTS.values())]
    mixed = model.score([row for row in ROWS for _ in prompts], prompts * len(ROWS))
    for place, (kind, each) in enumerate(zip(READOUTS, prompts, strict=True)):
        alone, found = model.score(ROWS, each), mixed[place :: len(prompts)]
        assert {type(answer) for answer in found} == {CLASSES[kind]}
        if kind == "scalar":
            assert [one.number for one in found] == [pytest.approx(one.number, abs=1e-4) for one in alone]
        else:
            assert [one.value for one in found] == [one.value for one in alone]


def test_a_number_lies_between_its_bounds_by_the_share_of_the_second_word():
    found = answer(READOUTS["scalar"], 3.0, torch.tensor([0.25, 0.75]).log(), 2)
    assert (found.label, found.value, found.probability, found.cut) == ("4", pytest.approx(4.0), None, 2)


def test_several_labels_hold_from_one_half_on_and_the_temperature_keeps_them():
    shares = torch.tensor([0.9, 0.2])
    sharp, flat = (answer(READOUTS["yes-no"], t, shares.log(), 0) for t in (1.0, 4.0))
    assert sharp.value == flat.value == ("warm",)
    assert sharp.probabilities == pytest.approx({"warm": 0.9, "dull": 0.2}, abs=1e-6)
    assert flat.probabilities["warm"] == pytest.approx(1 / (1 + 9**-0.25), abs=1e-6)
    assert sharp.probability == pytest.approx(0.9 * 0.8, abs=1e-6)
    assert label_set(("b", "a"), [0.5, 0.6]).label == "b|a"
    assert label_set(("b", "a"), [0.5, 0.6]).value == ("a", "b")
    assert label_set(("b", "a"), [0.1, 0.2]).label == ""
    assert torch.isfinite(log_no(torch.tensor([0.0, -1e-9, -80.0]))).all()
    assert yes_shares(torch.tensor([0.0]), 1.0) > 0.999


def test_tags_are_one_a_word_and_words_without_room_are_outside():
    scores = torch.tensor([[0.0, -1.0, -1.0], [-1.0, 0.0, -1.0]])
    found = answer(READOUTS["token-tags"], 1.0, scores, 3, "a good film here")
    assert found.tags == ("B-Q", "I-Q", "O", "O")
    assert found.cells() == {
        "": "B-Q I-Q O O",
        "spans": [{"type": "Q", "begin": 0, "end": 2, "text": "a good"}],
    }
    words = TokenTags.from_tags(["NOUN", "VERB"])
    assert answer(words, 1.0, scores[:, :2], 0, "dogs bark").spans == ()
    assert not write_spans(["NOUN"])
    assert spans_of(["I-A", "B-A"]) == (Span("A", 0, 1), Span("A", 1, 2))


def test_lines_of_every_kind_read_back(model):
    asked = [Asked.of(kind, prompt(model, readout)) for kind, readout in READOUTS.items()]
    with Engine(model) as engine:
        (part,) = answer_stream(engine, ROWS, asked)
    for form in ("csv", "jsonl"):
        layout = Layout(form, ["text"], list(READOUTS), list(READOUTS))
        whole = layout.head() + "".join(map(layout.line, part))
        lines = (
            list(csv.DictReader(io.StringIO(whole, newline="")))
            if form == "csv"
            else [json.loads(line) for line in whole.splitlines()]
        )
        assert list(lines[0]) == [
            "text", "label-words", "label-words_probability", "yes-no", "yes-no_probability", "yes-no_probabilities",
            "scalar", "text_answer", "token-tags", "token-tags_spans",
        ]  # fmt: skip
        for line, answered in zip(lines, part, strict=True):
            label, several, number, text, tags = answered.answers
            assert (line["label-words"], line["text_answer"]) == (label.label, text.label)
            assert float(line["scalar"]) == pytest.approx(number.number, abs=1e-5)
            each = line["yes-no_probabilities"]
            each = json.loads(each) if form == "csv" else each
            assert each == pytest.approx(several.probabilities, abs=1e-5)
            assert line["token-tags"].split(" ") == list(tags.tags)
            spans = line["token-tags_spans"]
            assert len(json.loads(spans) if form == "csv" else spans) == len(tags.spans)


def test_plain_text_is_the_first_turn_of_a_conversation():
    backbone = tiny_backbone("gemma3")
    backbone.tokenizer.chat_template = (
        "<s>{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    rows = torch.zeros(2, backbone.embedding_size)
    chat = SoftPrompt({"input": rows}, ChatTemplate(), Text(4, lead=""), backbone.fingerprint)
    asked = Asked.of("chat", chat, column="text")
    turns = [{"role": "user", "content": "good?"}]
    assert json.loads(asked.fields({"text": "good?"})["messages"]) == turns
    assert json.loads(asked.fields({"text": json.dumps(turns)})["messages"]) == turns
    with Engine(backbone) as engine:
        ((one, other),) = answer_stream(engine, [{"text": "good?"}, {"text": json.dumps(turns)}], [asked])
    assert one.answers[0].label == other.answers[0].label


def test_a_mean_and_a_vote_of_labels():
    members = [
        Answer("ham", 0.9, {"ham": 0.9, "spam": 0.1}),
        Answer("spam", 0.6, {"ham": 0.4, "spam": 0.6}, cut=2),
        Answer("spam", 0.6, {"ham": 0.4, "spam": 0.6}),
    ]
    mean, vote = joined(members, "mean"), joined(members, "vote")
    assert (mean.label, mean.probability, mean.cut) == ("ham", pytest.approx(1.7 / 3), 2)
    assert (vote.label, vote.probability) == ("spam", pytest.approx(2 / 3))
    assert joined(members[:2], "vote").label == "ham"  # a tie goes to the higher mean
    sets = [label_set(("a", "b"), shares) for shares in ([0.9, 0.4], [0.4, 0.4], [0.4, 0.8])]
    assert joined(sets, "mean").value == ("a", "b")
    assert joined(sets, "vote").value == ()
    numbers = [answer(READOUTS["scalar"], 1.0, torch.tensor([1 - p, p]).log(), 0) for p in (0.5, 1.0)]
    assert joined(numbers).value == pytest.approx(4.0)


def test_an_ensemble_answers_in_one_call(model):
    members = [prompt(model, READOUTS["label-words"], seed) for seed in range(3)]
    found = score_ensemble(model, ROWS, members)
    each = [model.score(ROWS, member) for member in members]
    expected = [sum(answers[i].probabilities["ham"] for answers in each) / 3 for i in range(3)]
    assert [one.probabilities["ham"] for one in found] == [pytest.approx(share, abs=1e-5) for share in expected]
    asked = [Asked.of(str(n), member) for n, member in enumerate(members)]
    with Engine(model) as engine:
        (part,) = answer_stream(engine, ROWS, asked, ensemble="mean")
    assert [line.answers[0].label for line in part] == [one.label for one in found]


def test_what_is_no_ensemble_is_refused(model):
    label = prompt(model, READOUTS["label-words"])
    other = prompt(model, LabelWords.from_labels(["a", "b", "c", "d", "e"]))
    with pytest.raises(ConfigError, match="an ensemble of 1 prompt was asked for; name at least two"):
        check_members([label])
    with pytest.raises(ConfigError, match=r"these have `ham`, `spam` and `a`, `b`, `c`, `d`, \.\.\.; name prompts of"):
        check_members([label, other])
    with pytest.raises(ConfigError, match="these have numbers from 1 to 5 and numbers from 0 to 5"):
        check_members([prompt(model, READOUTS["scalar"]), prompt(model, Scalar(0.0, 5.0))])
    with pytest.raises(ConfigError, match="read the same fields, and these have `text` and `mail`; name prompts of"):
        check_members([label, prompt(model, READOUTS["label-words"], pattern="{soft}{mail}:")])
    for kind, what in (("text", "texts"), ("token-tags", "tags")):
        with pytest.raises(ConfigError, match=f"answers of an ensemble become one, which {what} cannot; run the"):
            check_members([prompt(model, READOUTS[kind])] * 2)
    with pytest.raises(UnknownNameError, match="unknown way to join an ensemble `men`; did you mean `mean`"):
        how_of("men")


def test_a_prompt_without_its_rows_is_read_by_words(model):
    rows = {"readout.weight": torch.ones(2, model.backbone.hidden_size), "readout.bias": torch.tensor([0.0, 9.0])}
    plain = prompt(model, READOUTS["label-words"])
    headed = SoftPrompt(
        {**plain.tensors, **rows}, plain.template, plain.readout, plain.fingerprint, temperature=2.0, abstain=0.5
    )
    assert (headed.has_rows, plain.has_rows) == (True, False)
    assert {answer.label for answer in model.score(ROWS, headed)} == {"spam"}
    assert headed.alone().to_bytes() == plain.to_bytes()

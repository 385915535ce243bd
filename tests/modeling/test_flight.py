"""Rows in flight: any schedule gives what each row gives alone; the cache grows, shrinks and is emptied."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.backbones.backbone import Growing
from softprompt.modeling import flight as flights
from softprompt.modeling import slots
from softprompt.modeling.flight import Flight
from softprompt.modeling.prompted_model import Budget, PromptedModel
from softprompt.modeling.sampling import Sampling
from softprompt.modeling.slots import Slots
from softprompt.modeling.writing import Writing
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.free_text import Text
from softprompt.tasks.template import Template
from softprompt.testing import row_conformance
from softprompt.testing.conformance import key_values_of, prompt, rows
from softprompt.testing.flights import SAMPLINGS, Airfield, Passenger, check_passengers
from softprompt.testing.tiny import tiny_backbone

PATTERN = Template("{bos}{soft}Text: {text}\nAnswer:")


def text_prompt(backbone, length, tokens=8):
    return SoftPrompt(prompt(backbone, length, seed=length).tensors, PATTERN, Text(tokens), backbone.fingerprint)


MISTRAL = tiny_backbone("mistral")
TEXTS = (text_prompt(MISTRAL, 2, 5), text_prompt(MISTRAL, 9, 9), key_values_of(MISTRAL, text_prompt(MISTRAL, 6)))
LABELS = (prompt(MISTRAL, 3), prompt(MISTRAL, 8, readout="trie"))


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.builds(
            Passenger,
            prompt=st.sampled_from([*TEXTS, *LABELS]),
            row=st.sampled_from(rows()),
            sampling=st.sampled_from(SAMPLINGS),
            number=st.integers(0, 5),
            joins=st.integers(0, 7),
            leaves=st.one_of(st.none(), st.integers(1, 9)),
        ),
        min_size=1,
        max_size=7,
    )
)
def test_any_schedule_gives_what_each_row_gives_alone(passengers):
    check_passengers(MISTRAL, passengers)


def begun(model, prompts, texts, **settings):
    flight = Flight(model.backbone)
    bounds = [model.bind(each) for each in prompts]
    encoded = [model.encode({"text": text}, bound) for text, bound in zip(texts, bounds, strict=True)]
    writings = [Writing(bound, **settings) for bound in bounds]
    assert model.begin(encoded, bounds, writings, flight) == [None] * len(prompts)
    return flight, writings


def test_a_flight_counts_its_rows_and_the_slots_of_the_longest():
    model = PromptedModel(MISTRAL)
    flight, (short, long) = begun(model, TEXTS[:2], ["good", "a gripping film"])
    assert (len(flight), flight.tokens) == (2, 2 * long.prompt_tokens)
    assert [writing.tokens for writing in flight.step()] == [short.tokens, long.tokens]
    assert flight.tokens == 2 * (long.prompt_tokens + 1)
    flight.leave(long)
    assert (len(flight), flight.tokens) == (1, short.prompt_tokens + 1)
    flight.leave(long)  # it has left
    flight.leave(short)
    assert (len(flight), flight.tokens, flight.step()) == (0, 0, [])


@pytest.mark.parametrize("family", ["mistral", "phi3_longrope"])
def test_a_row_that_was_let_go_goes_on_where_it_was(family):
    backbone = tiny_backbone(family)
    model, some = PromptedModel(backbone), text_prompt(backbone, 1, 8)
    text = "a gripping film"  # the row's tokens and its longest answer end just below the switch of longrope
    flight, (whole,) = begun(model, [some], [text], sampling=Sampling(repetition_penalty=1.3))
    while len(flight):
        flight.step()
    first, (writing,) = begun(model, [some], [text], sampling=Sampling(repetition_penalty=1.3))
    for _ in range(5):
        first.step()
    first.leave(writing)
    row = model.encode({"text": text}, writing.bound)
    again = Flight(backbone)
    model.begin([row._replace(ids=(*row.ids, *writing.tokens))], [writing.bound], [writing], again)
    while len(again):
        again.step()
    assert (writing.tokens, writing.prompt_tokens) == (whole.tokens, whole.prompt_tokens)
    reach = whole.prompt_tokens + 8
    assert backbone.position_switch is None or reach <= backbone.position_switch < reach + 5


def test_a_step_writes_in_place(monkeypatch):
    """The cache's tensors are made anew for a column in `_ROOM`, and not for each."""
    made, fit = [], Slots._fit
    monkeypatch.setattr(Slots, "_fit", lambda self, *a: made.append(self._tensors[0].shape) or fit(self, *a))
    flight, _ = begun(PromptedModel(MISTRAL), [text_prompt(MISTRAL, 4, 100)], ["good"], sampling=Sampling(1.0))
    places = []
    for _ in range(5):
        flight.step()
        places.append(flight._sides[0]._own.rows[0].data_ptr())
    assert len(set(places)) == 1


@pytest.mark.parametrize("room", [1, 2, 5])
def test_rows_come_to_the_same_however_often_the_room_is_made_anew(monkeypatch, room):
    monkeypatch.setattr(slots, "_ROOM", room)
    passengers = [Passenger(TEXTS[n % 3], row, SAMPLINGS[n % 5], n, n // 2) for n, row in enumerate(rows(6))]
    check_passengers(MISTRAL, passengers)


@pytest.mark.parametrize("family", ["phi3_longrope", "t5", "bart"])
def test_room_of_other_sizes_where_a_step_is_not_plain(monkeypatch, family):
    monkeypatch.setattr(slots, "_ROOM", 3)
    backbone = tiny_backbone(family)
    if backbone.kind == "decoder":
        some = text_prompt(backbone, 4)
    else:
        some = row_conformance.prompt(backbone, 4, readout=Text(8))
    check_passengers(backbone, [Passenger(some, row, SAMPLINGS[n % 5], n, n) for n, row in enumerate(rows(6))])


def test_a_place_that_is_not_taken_over_is_caught(monkeypatch):
    monkeypatch.setattr(Slots, "drop", lambda self, row: self.lengths.pop(row))
    passengers = [Passenger(TEXTS[n % 3], row, leaves=1 if n == 0 else None) for n, row in enumerate(rows(5))]
    with pytest.raises(AssertionError, match=r"of passenger|takes no room"):
        check_passengers(MISTRAL, passengers)


def test_penalties_do_not_change_what_a_token_is_said_to_be_worth():
    backbone = tiny_backbone("llama")
    model, some = PromptedModel(backbone), text_prompt(backbone, 4, 6)
    _, (greedy,) = plain = begun(model, [some], ["good"], likeliest=3)
    _, (bent,) = other = begun(model, [some], ["good"], likeliest=3, sampling=Sampling(2.0, 0.9, 7, 0.01, 1.5))
    for flight, _ in (plain, other):
        flight.step()
    assert dict(greedy.likeliest[0]) == pytest.approx(dict(bent.likeliest[0]))
    assert greedy.log_probabilities[0] == pytest.approx(greedy.likeliest[0][0][1])
    assert greedy.tokens[0] == greedy.likeliest[0][0][0]
    bound = model.bind(some)
    first = model.read([{"text": "good"}], bound).log_probabilities[0]
    assert bent.log_probabilities[0] == pytest.approx(float(first[bent.tokens[0]]), abs=1e-5)
    assert [token for token, _ in bent.likeliest[0]] == first.topk(3).indices.tolist()


def test_only_as_many_likeliest_as_each_row_asks_for():
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    found = flights._likeliest(logits, logits.logsumexp(-1), [2, 0, 5])
    assert [len(each) for each in found] == [2, 0, 5]
    assert flights._likeliest(logits, logits.logsumexp(-1), [0, 0, 0]) == [(), (), ()]


def test_text_and_labels_are_scored_in_the_same_passes():
    backbone = tiny_backbone("gemma3")
    calls, inner = [], backbone.run
    backbone.run = lambda embeddings, **k: calls.append(embeddings.shape[:2]) or inner(embeddings, **k)
    model = PromptedModel(backbone)
    answers = model.score([{"text": "good"}] * 4, [text_prompt(backbone, 3, 4), prompt(backbone, 3)] * 2)
    assert [each.label in ("good", "bad") for each in answers[1::2]] == [True, True]
    widths = [tokens for _, tokens in calls]
    assert len([width for width in widths if width > 1]) == 3  # two prefixes, and one pass for all rows


def test_rows_that_are_written_wait_until_there_is_room():
    backbone = tiny_backbone("llama")
    some = text_prompt(backbone, 3, 6)
    whole = PromptedModel(backbone).write(rows(7), some)
    seen, step = [], Flight.step
    model = PromptedModel(backbone, budget=Budget(rows=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Flight, "step", lambda self: seen.append(len(self)) or step(self))
        assert [each.tokens for each in model.write(rows(7), some)] == [each.tokens for each in whole]
    assert max(seen) == 2


def test_attention_reads_columns_with_room_as_it_reads_others():
    """In place and copied, keys and values give the same states, whichever way attention takes."""
    backbone = tiny_backbone("llama")
    generator = torch.Generator().manual_seed(0)
    room = [tuple(torch.randn(2, 2, 9, 12, generator=generator) for _ in range(2)) for _ in range(2)]
    past = [(keys[:, :, 2:6].clone(), values[:, :, 2:6].clone()) for keys, values in room]
    mask, positions = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]), torch.tensor([[3], [4]])
    embedded = backbone.embed(torch.tensor([[5], [6]]))
    with torch.no_grad():
        copied, kept = backbone.run(embedded, mask=mask, positions=positions, past=past, keep=True)
        in_place, _ = backbone.run(embedded, mask=mask, positions=positions, past=Growing(room, 2, 6))
    assert torch.allclose(in_place, copied, atol=1e-5)
    for (keys, values), (all_keys, all_values) in zip(room, kept, strict=True):
        assert torch.allclose(keys[:, :, 2:7], all_keys, atol=1e-5)
        assert torch.allclose(values[:, :, 2:7], all_values, atol=1e-5)


def test_alone_in_the_air_is_written_by_the_model():
    backbone = tiny_backbone("llama")
    some = text_prompt(backbone, 3, 6)
    (found,) = Airfield(backbone).fly([Passenger(some, rows()[1])])
    (written,) = PromptedModel(backbone).write(rows()[1:2], some)
    assert (written.tokens, written.text) == (tuple(found.tokens), found.written().text)


def test_rows_that_give_no_numbers_leave_none_to_those_behind_them():
    model = PromptedModel(MISTRAL)
    huge = key_values_of(MISTRAL, text_prompt(MISTRAL, 30))
    huge = SoftPrompt(
        {s: torch.full_like(t, 3e38) for s, t in huge.tensors.items()}, PATTERN, Text(8), MISTRAL.fingerprint
    )
    flight, (_, long, short) = begun(
        model, [huge, text_prompt(MISTRAL, 40, 12), text_prompt(MISTRAL, 3, 12)], ["a"] * 3
    )
    first = next(iter(flight._sides[0].writings))
    assert first.bound.key == huge.digest
    flight.leave(first)  # the last row takes its place
    while len(flight):
        flight.step()
    for writing, own in ((long, text_prompt(MISTRAL, 40, 12)), (short, text_prompt(MISTRAL, 3, 12))):
        (alone,) = model.write([{"text": "a"}], own)
        assert tuple(writing.tokens) == alone.tokens
        assert torch.tensor(writing.log_probabilities).isfinite().all()
    flight, _ = begun(model, [text_prompt(MISTRAL, 40, 12), huge], ["a"] * 2)
    flight.leave(flight._sides[0].writings[1])
    encoded, bound = {"text": "a"}, model.bind(text_prompt(MISTRAL, 3, 12))
    writing = Writing(bound)
    model.begin([model.encode(encoded, bound)], [bound], [writing], flight)
    while len(flight):
        flight.step()
    assert torch.tensor(writing.log_probabilities).isfinite().all()

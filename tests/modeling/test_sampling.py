"""Each setting against a plain reference, written out for one row at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.errors import ConfigError
from softprompt.modeling import sampling
from softprompt.modeling.sampling import Sampling, choose


def logits_of(seed, rows=1, size=50, scale=3.0):
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * scale


def shares_of(logits, own, seen=()):
    """What a row's settings leave of a distribution, in plain Python: {token: probability}."""
    scores = logits.double().tolist()
    for token in set(seen):
        penalty = own.repetition_penalty
        scores[token] = scores[token] / penalty if scores[token] > 0 else scores[token] * penalty
    if own.greedy:
        return {max(range(len(scores)), key=lambda token: scores[token]): 1.0}
    shares = {token: math.exp((score - max(scores)) / own.temperature) for token, score in enumerate(scores)}
    likeliest = sorted(shares, key=lambda token: -shares[token])
    if own.top_k:
        likeliest = likeliest[: own.top_k]
    total, summed, nucleus = sum(shares[token] for token in likeliest), 0.0, []
    for token in likeliest:
        if summed < own.top_p * total:
            nucleus.append(token)
        summed += shares[token]
    kept = [token for token in nucleus if shares[token] >= own.min_p]
    return {token: shares[token] / sum(shares[each] for each in kept) for token in kept}


def drawn(logits, own, draws, seen=()):
    """How often each token was chosen, as a share."""
    batch = logits.expand(draws, -1)
    streams = [own.stream(number) for number in range(draws)]
    tokens = choose(batch, [own] * draws, [seen] * draws, streams)
    return {int(token): int(count) / draws for token, count in zip(*tokens.unique(return_counts=True), strict=True)}


SETTINGS = {
    "temperature": Sampling(temperature=0.7),
    "hot": Sampling(temperature=3.0),
    "top-p": Sampling(temperature=1.0, top_p=0.8),
    "top-k": Sampling(temperature=1.0, top_k=4),
    "top-k beyond the vocabulary": Sampling(temperature=1.0, top_k=10_000),
    "min-p": Sampling(temperature=1.0, min_p=0.1),
    "all": Sampling(temperature=1.5, top_p=0.7, top_k=8, min_p=0.05, repetition_penalty=1.5),
    "penalty": Sampling(temperature=1.0, repetition_penalty=2.0),
    "favour": Sampling(temperature=1.0, repetition_penalty=0.5),
}


@pytest.mark.parametrize("own", SETTINGS.values(), ids=SETTINGS)
def test_tokens_are_drawn_from_what_the_settings_leave(own):
    logits, seen = logits_of(1), (0, 7, 31, 49)
    expected, found = shares_of(logits[0], own, seen), drawn(logits, own, 4_000, seen)
    assert set(found) <= set(expected)
    for token, share in expected.items():
        assert found.get(token, 0.0) == pytest.approx(share, abs=4.5 * math.sqrt(share * (1 - share) / 4_000) + 1e-3)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    each=st.lists(
        st.builds(
            Sampling,
            temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
            top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
            top_k=st.sampled_from([0, 1, 3, 50, 51]),
            min_p=st.sampled_from([0.0, 0.2, 1.0]),
            repetition_penalty=st.sampled_from([0.7, 1.0, 1.8]),
            seed=st.integers(-5, 5),
        ),
        min_size=1,
        max_size=20,
    ),
)
def test_rows_of_different_settings_choose_as_they_do_alone(seed, each):
    logits = logits_of(seed, len(each))
    seen = [set(torch.randint(50, (6,), generator=own.stream(99)).tolist()) for own in each]
    together = choose(logits, each, seen, [own.stream(row) for row, own in enumerate(each)])
    for row, own in enumerate(each):
        alone = choose(logits[row : row + 1], [own], [seen[row]], [own.stream(row)])
        assert int(together[row]) == int(alone)
        assert int(alone) in shares_of(logits[row], own, seen[row])


def test_the_likeliest_token_is_taken_unless_a_penalty_speaks_against_it():
    logits = torch.tensor([[0.5, 2.0, 1.5, -1.0]])
    for own, seen, expected in (
        (Sampling(), {1}, 1),
        (Sampling(repetition_penalty=1.5), {1}, 2),
        (Sampling(repetition_penalty=1.5), set(), 1),
        (Sampling(repetition_penalty=5.0), {1, 2}, 0),
        (Sampling(repetition_penalty=5.0), {0, 1, 2}, 1),
    ):
        assert choose(logits, [own], [seen], [own.stream(0)]).tolist() == [expected]
    negative = torch.tensor([[-1.0, -1.2]])
    assert choose(negative, [Sampling(repetition_penalty=2.0)], [{0}], [Sampling().stream(0)]).tolist() == [1]


def test_a_nucleus_that_is_wider_than_the_first_look_is_found(monkeypatch):
    monkeypatch.setattr(sampling, "_LIKELIEST", 2)
    logits, own = logits_of(3, size=700, scale=0.5), Sampling(temperature=1.0, top_p=0.9)
    found = drawn(logits, own, 3_000)
    expected = shares_of(logits[0], own)
    assert set(found) <= set(expected)
    assert len(expected) > 32


def test_equals_are_kept_together():
    logits = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    assert set(drawn(logits, Sampling(temperature=1.0, top_k=1), 200)) == {0, 1, 2}


@pytest.mark.parametrize("temperature", [1e-30, 1e-3, 100.0])
def test_extreme_temperatures_give_tokens(temperature):
    logits = torch.tensor([[50.0, 49.0, -80.0, -math.inf]])
    found = drawn(logits, Sampling(temperature=temperature), 100)
    assert 3 not in found
    assert temperature == 100.0 or set(found) == {0}


def test_streams_are_a_rows_own():
    own = Sampling(temperature=1.0, seed=4)
    first = torch.rand(3, generator=own.stream(1))
    assert torch.equal(first, torch.rand(3, generator=own.stream(1)))
    assert not torch.equal(first, torch.rand(3, generator=own.stream(2)))
    assert not torch.equal(first, torch.rand(3, generator=Sampling(seed=5).stream(1)))
    assert Sampling(seed=2**63 - 1).stream(5).initial_seed() >= 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1; it is 0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": 101.0}, "to 100"),
        ({"top_p": 0.0}, "top_p is 0.0; it is above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"top_k": -1}, "top_k is -1; it is 0"),
        ({"min_p": 1.5}, "min_p is 1.5; it is 0"),
        ({"min_p": -0.5}, "min_p is -0.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; it is above 0 and at most 100"),
        ({"repetition_penalty": math.inf}, "repetition_penalty is inf"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Sampling(**settings)


@pytest.mark.parametrize("top_p", [1e-50, 1e-40, 1e-9])
def test_the_smallest_nucleus_has_the_likeliest_token(top_p):
    assert set(drawn(torch.tensor([[0.1, 3.0, 0.2]]), Sampling(temperature=1.0, top_p=top_p), 50)) == {1}

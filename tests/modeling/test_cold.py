"""The first row of a prompt carries its prefix, so that one pass does for both; the families have their own suite."""

from dataclasses import replace

import pytest
import torch

from softprompt.modeling import batching
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.flight import Flight
from softprompt.modeling.prefix_cache import PrefixCache
from softprompt.modeling.prefixes import Prefixes
from softprompt.modeling.prompted_model import Budget, PromptedModel
from softprompt.tasks.free_text import Text
from softprompt.tasks.template import Template
from softprompt.testing.conformance import key_values_of, prompt, rows
from softprompt.testing.tiny import tiny_backbone


@pytest.fixture
def backbone():
    return tiny_backbone("gemma3")


@pytest.fixture
def passes(backbone, monkeypatch):
    """The rows and columns of each pass of the backbone."""
    seen, run = [], backbone.run
    monkeypatch.setattr(backbone, "run", lambda e, **kw: seen.append(tuple(e.shape[:2])) or run(e, **kw))
    return seen


def probabilities(answers):
    return torch.tensor([[*answer.probabilities.values()] for answer in answers])


def test_the_first_row_of_a_prompt_takes_one_pass_and_so_does_the_second(backbone, passes):
    model, some = PromptedModel(backbone), prompt(backbone, 6)
    first = model.score(rows(1), some)
    assert len(passes) == 1
    second = model.score(rows(1), some)
    assert len(passes) == 2
    assert passes[0][1] == passes[1][1] + len(model.bind(some).template.prefix)
    torch.testing.assert_close(probabilities(first), probabilities(second), atol=1e-5, rtol=0)
    assert (model.cache.misses, model.cache.hits) == (1, 1)


def test_what_is_kept_is_the_prefix_and_nothing_of_the_row(backbone):
    model, some = PromptedModel(backbone), prompt(backbone, 6)
    model.score(rows(1), some)
    kept = model.cache.find((some.digest, False), lambda: pytest.fail("it is not kept"))
    (alone,) = Prefixes(backbone).run([BoundPrompt.of(backbone, some)])
    assert kept.length == alone.length
    for (keys, values), (k, v) in zip(kept.past, alone.past, strict=True):
        torch.testing.assert_close(keys, k)
        torch.testing.assert_close(values, v)
        assert keys.untyped_storage().nbytes() == keys.nbytes  # not a view into the pass


def test_many_cold_prompts_share_one_pass(backbone, passes):
    some = [prompt(backbone, length, seed=length) for length in (3, 6, 9)]
    together = PromptedModel(backbone).score(rows(3), some)
    assert len(passes) == 1
    warm = PromptedModel(backbone, share_prefix=False).score(rows(3), some)
    torch.testing.assert_close(probabilities(together), probabilities(warm), atol=1e-5, rtol=0)


def test_rows_of_one_prompt_have_its_prefix_run_once(backbone, passes):
    PromptedModel(backbone).score(rows(4), prompt(backbone, 6))
    assert [count for count, _ in passes] == [1, 4]


def test_a_long_prefix_does_not_widen_many_short_rows(backbone, passes, monkeypatch):
    monkeypatch.setattr(batching, "_A_PASS", 4)
    model, short, long = PromptedModel(backbone), prompt(backbone, 2), prompt(backbone, 40)
    model.score(rows(1), short)
    passes.clear()
    model.score([rows(1)[0]] * 8, [short] * 7 + [long])
    assert [count for count, _ in passes] == [1, 8]


def test_the_longest_prefixes_are_left_behind_first(backbone, passes, monkeypatch):
    monkeypatch.setattr(batching, "_A_PASS", 16)
    some = [prompt(backbone, length, seed=length) for length in (2, 3, 4, 80)]
    PromptedModel(backbone).score([rows(1)[0]] * 4, some)
    assert [count for count, _ in passes] == [1, 4]


def test_a_pass_over_cold_prompts_has_no_more_tokens_than_another(backbone, passes):
    some = [prompt(backbone, 100, seed=seed) for seed in range(12)]
    model = PromptedModel(backbone, budget=Budget(rows=64, tokens=512))
    bounds = [model.bind(each) for each in some]
    encoded = [model.encode(rows(1)[0], bound) for bound in bounds]
    model.begin(encoded, bounds, [None] * 12, Flight(backbone))
    assert len(passes) > 2
    assert max(count * columns for count, columns in passes) <= 512


def test_two_rows_of_one_prompt_are_told_by_its_digest(backbone, passes):
    """The model may have bound it twice, where it keeps few bound prompts."""
    model, some = PromptedModel(backbone), prompt(backbone, 6)
    bounds = [model.bind(some), replace(model.bind(some))]
    model.begin([model.encode(row, bounds[0]) for row in rows(2)], bounds, [None] * 2, Flight(backbone))
    assert [count for count, _ in passes] == [1, 2]
    assert model.cache.misses == 1


def test_a_row_that_overflows_leaves_no_prefix(backbone, monkeypatch):
    model, some, run = PromptedModel(backbone), prompt(backbone, 6), backbone.run

    def overflow(embeddings, **settings):
        hidden, past = run(embeddings, **settings)
        return hidden, [(k * torch.nan, v) for k, v in past]

    with monkeypatch.context() as patched:
        patched.setattr(backbone, "run", overflow)
        model.score(rows(1), some)
    assert len(model.cache) == 0
    assert probabilities(model.score(rows(1), some)).isfinite().all()


def test_what_does_not_fit_the_cache_is_used_and_not_kept(backbone, passes):
    model, some = PromptedModel(backbone, cache=PrefixCache(max_bytes=16)), prompt(backbone, 6)
    first, second = (probabilities(model.score(rows(1), some)) for _ in range(2))
    assert len(passes) == 2
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)
    assert len(model.cache) == 0


def test_a_text_is_written_behind_a_cold_prompt_as_behind_a_warm_one(backbone):
    plain = prompt(backbone, 6)
    some = replace(plain, template=Template("{bos}Say:{soft}{text} ="), readout=Text(max_new_tokens=5))
    model = PromptedModel(backbone, budget=Budget(rows=1))
    cold, warm = (model.write(rows(1), some)[0] for _ in range(2))
    assert cold.tokens == warm.tokens
    assert cold.log_probability == pytest.approx(warm.log_probability, abs=1e-5)


def test_words_in_front_of_keys_and_values_are_run_once_for_all_prompts(backbone, passes):
    """The rest of a prefix rides with the row, so that a further cold prompt of this kind takes one pass."""
    template = Template("{bos}Say:{soft} it {text} =")
    some = [
        key_values_of(backbone, replace(prompt(backbone, length, seed=length), template=template)) for length in (3, 6)
    ]
    model = PromptedModel(backbone)
    passes.clear()
    found = [model.score(rows(1), each)[0] for each in some]
    assert [count for count, _ in passes] == [1, 1, 1]
    words = len(model.bind(some[0]).split[0])
    assert passes[0] == (1, words)
    torch.testing.assert_close(
        probabilities(found), probabilities([model.score(rows(1), each)[0] for each in some]), atol=1e-5, rtol=0
    )
    for each in some:
        kept = model.cache.find((each.digest, False), lambda: pytest.fail("it is not kept"))
        assert kept.length == len(model.bind(each).template.prefix)

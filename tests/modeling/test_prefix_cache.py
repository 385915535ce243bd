"""Prefixes are computed once, kept by their bytes, and dropped when unused the longest."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from softprompt.modeling.bound import Prefix
from softprompt.modeling.prefix_cache import PrefixCache
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.testing.conformance import prompt, rows
from softprompt.testing.tiny import tiny_backbone


def prefix(slots):
    """A prefix of 8 bytes a slot."""
    return Prefix([(torch.zeros(1, 1, slots, 1), torch.zeros(1, 1, slots, 1))], slots)


def ask(cache, name, slots=1, *, far=False):
    return cache.find((name, far), lambda: prefix(slots))


def test_a_prefix_is_computed_once_for_each_side():
    cache = PrefixCache()
    first = ask(cache, "a", 3)
    assert ask(cache, "a") is first
    assert ask(cache, "a", far=True) is not first
    assert (cache.hits, cache.misses, cache.bytes, len(cache)) == (1, 2, 3 * 8 + 8, 2)


def test_the_longest_unused_goes_first():
    cache = PrefixCache(max_bytes=32)
    for name in "abcd":
        ask(cache, name)
    ask(cache, "a")
    ask(cache, "e", 2)  # b and c go
    assert (cache.evictions, cache.bytes, len(cache)) == (2, 32, 3)
    misses = cache.misses
    for name in "ade":
        ask(cache, name)
    assert cache.misses == misses
    ask(cache, "b")
    assert cache.misses == misses + 1


def test_a_prefix_larger_than_the_cache_is_used_and_not_kept():
    cache = PrefixCache(max_bytes=32)
    ask(cache, "a")
    assert ask(cache, "large", 5).length == 5
    assert (cache.bytes, cache.evictions, len(cache)) == (8, 0, 1)
    ask(cache, "large", 5)
    assert cache.misses == 3


def test_a_prompt_is_forgotten_on_both_sides():
    cache = PrefixCache()
    ask(cache, "a")
    ask(cache, "a", far=True)
    ask(cache, "b")
    cache.forget("a")
    cache.forget("never kept")
    assert (cache.bytes, len(cache), cache.evictions) == (8, 1, 0)


def test_many_who_ask_at_once_wait_for_one_computation():
    cache, begun, go = PrefixCache(), threading.Event(), threading.Event()

    def slow():
        begun.set()
        assert go.wait(10)
        return prefix(1)

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(cache.find, ("a", False), slow)
        assert begun.wait(10)
        others = [pool.submit(cache.find, ("a", False), slow) for _ in range(7)]
        assert ask(cache, "b").length == 1  # another prompt is not kept waiting
        go.set()
        found = {id(each.result(10)) for each in [first, *others]}
    assert len(found) == 1
    assert (cache.misses, cache.hits) == (2, 7)


def test_what_computing_raises_is_raised_and_the_next_may_try_again():
    cache = PrefixCache()

    def fail():
        raise ValueError("no memory")

    with pytest.raises(ValueError, match="no memory"):
        cache.find(("a", False), fail)
    assert ask(cache, "a").length == 1
    assert (cache.misses, len(cache)) == (2, 1)


def test_those_who_wait_for_a_computation_that_fails_are_told():
    cache, begun, go = PrefixCache(), threading.Event(), threading.Event()

    def fail():
        begun.set()
        assert go.wait(10)
        raise ValueError("no memory")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.find, ("a", False), fail)
        assert begun.wait(10)
        second = pool.submit(ask, cache, "a")
        while not cache.hits:  # until the second waits
            pass
        go.set()
        for each in (first, second):
            with pytest.raises(ValueError, match="no memory"):
                each.result(10)


def test_models_of_one_backbone_share_a_cache():
    backbone, cache = tiny_backbone("llama"), PrefixCache()
    some = prompt(backbone, 6)
    first, second = (PromptedModel(backbone, cache=cache).score(rows(2), some) for _ in range(2))
    assert first == second
    assert (cache.misses, cache.hits) == (1, 1)
    bound = PromptedModel(backbone).bind(some)
    slots, config = len(bound.template.prefix), backbone.model.config
    assert cache.bytes == 2 * 2 * slots * config.num_key_value_heads * 12 * 4  # keys and values of two layers, fp32

"""Dividing rows: properties that hold for any rows."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.errors import ConfigError, DataError
from softprompt.tasks.splits import carve, few_shots, folds, shares, source_of_chance
from softprompt.tasks.task import Example

quick = settings(max_examples=60, deadline=None)
labelled = st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc")), min_size=1, max_size=80)
sizes = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 300), min_size=1)


def examples(pairs):
    return [Example({"text": f"t{text}"}, label) for text, label in pairs]


def unique(counts):
    return [Example({"text": f"{label}{n}"}, label) for label, size in counts.items() for n in range(size)]


def chance(seed=0, purpose="test"):
    return source_of_chance(seed, purpose)


@quick
@given(labelled, st.floats(0.05, 0.5), st.integers(1, 40), st.integers(0, 5))
def test_carving_loses_no_row_repeats_no_text_and_keeps_every_label(pairs, share, at_most, seed):
    rows = examples(pairs)
    kept, aside = carve(rows, share, at_most, chance(seed))
    as_pairs = Counter((row.key, row.label) for row in rows)
    assert Counter((row.key, row.label) for row in (*kept, *aside)) == as_pairs
    assert not {row.key for row in kept} & {row.key for row in aside}
    assert {row.label for row in kept} == {row.label for row in rows}
    order = {id(row): place for place, row in enumerate(rows)}
    for part in (kept, aside):
        places = [order[id(row)] for row in part]
        assert places == sorted(places)


@quick
@given(labelled, st.integers(0, 5))
def test_the_same_seed_gives_the_same_rows(pairs, seed):
    rows = examples(pairs)
    assert carve(rows, 0.3, 100, chance(seed)) == carve(rows, 0.3, 100, chance(seed))


@quick
@given(sizes, st.floats(0.05, 0.4), st.integers(1, 400))
def test_different_texts_are_stratified_within_one_row(counts, share, at_most):
    rows = unique(counts)
    _, aside = carve(rows, share, at_most, chance())
    taken = Counter(row.label for row in aside)
    wanted = min(at_most, max(1, round(share * len(rows))))
    assert len(aside) <= at_most
    for label, size in counts.items():
        exact = wanted * size / len(rows)
        if at_most >= wanted + len(counts):  # no cap in the way
            assert min(size - 1, 1) <= taken[label] <= max(1, exact + 1)
            assert taken[label] >= min(size - 1, exact - 1)


def test_seeds_and_purposes_draw_differently():
    rows = unique({"a": 100, "b": 100})
    first = carve(rows, 0.2, 1000, chance(0))[1]
    assert first != carve(rows, 0.2, 1000, chance(1))[1]
    assert first != carve(rows, 0.2, 1000, chance(0, "validation"))[1]


def test_a_label_of_large_groups_still_gives_its_smallest():
    rows = examples([(1, "a")] * 9 + [(2, "a")] * 5 + [(3, "a")] * 7 + [(n, "b") for n in range(10, 30)])
    _, aside = carve(rows, 0.1, 1000, chance())
    assert Counter(row.label for row in aside)["a"] == 5


def test_a_label_is_not_taken_away_through_a_text_of_two_labels():
    rows = examples([(1, "a"), (1, "b"), (2, "a"), (3, "a"), (4, "a")])
    for seed in range(20):
        kept, _ = carve(rows, 0.5, 100, chance(seed))
        assert {row.label for row in kept} == {"a", "b"}


@quick
@given(sizes, st.floats(0.01, 0.5), st.integers(1, 1000))
def test_shares_stay_below_the_cap(counts, share, at_most):
    taken = shares(counts, share, at_most)
    assert sum(taken.values()) <= at_most
    assert min(taken.values()) >= 0


@quick
@given(labelled, st.integers(2, 5), st.integers(0, 5))
def test_folds_are_all_rows_once_and_share_no_text(pairs, count, seed):
    rows = examples(pairs)
    if len({row.key for row in rows}) < count:
        return
    parts = folds(rows, count, chance(seed))
    assert sorted(i for part in parts for i in part) == list(range(len(rows)))
    keys = [{rows[i].key for i in part} for part in parts]
    assert sum(map(len, keys)) == len(set().union(*keys))
    assert parts == folds(rows, count, chance(seed))


@quick
@given(sizes, st.integers(2, 5))
def test_folds_of_different_texts_are_stratified_within_one_row(counts, count):
    rows = unique(counts)
    if len(rows) < count:
        return
    parts = folds(rows, count, chance())
    for label in counts:
        each = [sum(rows[i].label == label for i in part) for part in parts]
        assert max(each) - min(each) <= 1


@pytest.mark.parametrize("count", [1, 4])
def test_a_number_of_folds_that_cannot_be(count):
    with pytest.raises(ConfigError, match=f"{count} folds of 3 different texts; ask for 2 to 3 folds"):
        folds(unique({"a": 3}), count, chance())


def test_shots_are_different_texts_of_each_label_in_order():
    rows = examples([(1, "a"), (1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "b"), (6, "b")])
    drawn = few_shots(rows, 2, ["a", "b"], chance())
    assert Counter(row.label for row in drawn) == {"a": 2, "b": 2}
    assert len({row.key for row in drawn}) == 4
    assert [rows.index(row) for row in drawn] == sorted(rows.index(row) for row in drawn)
    assert drawn == few_shots(rows, 2, ["a", "b"], chance())


def test_too_few_shots_name_the_label():
    rows = examples([(1, "a"), (2, "a"), (3, "b"), (3, "b")])
    with pytest.raises(DataError, match=r"shots is 2, and the label `b` has 1 different text.* at most 1 or add rows"):
        few_shots(rows, 2, ["a", "b"], chance())
    with pytest.raises(ConfigError, match="shots is 0; it must be at least 1"):
        few_shots(rows, 0, ["a", "b"], chance())

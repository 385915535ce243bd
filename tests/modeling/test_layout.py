"""Where tokens stand: no holes, positions from zero, compaction that keeps every real column."""

import time

import torch
from hypothesis import given
from hypothesis import strategies as st

from softprompt.modeling.layout import by_length, compact, contiguous, least_work, longest_first, stack_left

lengths = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 7)), min_size=1, max_size=6)


@given(lengths)
def test_real_slots_are_adjacent_and_positions_count_them(pairs):
    prefix, row = (torch.tensor(column) for column in zip(*pairs, strict=True))
    layout = contiguous(prefix, row, int(row.max()))
    for i, (p, r) in enumerate(pairs):
        real = layout.mask[i].nonzero()[:, 0]
        assert len(real) == p + r
        assert (real.diff() == 1).all()
        assert layout.positions[i, :r].tolist() == list(range(p, p + r))


@given(lengths)
def test_compaction_moves_right_padding_to_the_left_and_nothing_else(pairs):
    prefix, row = (torch.tensor(column) for column in zip(*pairs, strict=True))
    mask = contiguous(prefix, row, int(row.max())).mask
    stamps = torch.arange(mask.shape[1], dtype=torch.float32).expand(len(pairs), 1, -1)[..., None].clone()
    ((keys, _),), turned = compact([(stamps, stamps)], mask)
    for i in range(len(pairs)):
        assert turned[i, -1] == 1
        assert keys[i, 0, turned[i].bool(), 0].tolist() == stamps[i, 0, mask[i].bool(), 0].tolist()


def test_prefixes_of_different_lengths_are_padded_on_the_left():
    short, long = (torch.full((1, 1, n, 1), float(n)) for n in (1, 3))
    ((keys, _),) = stack_left([[(short, short)], [(long, long)]], torch.tensor([1, 0, 1]))
    assert keys[:, 0, :, 0].tolist() == [[3, 3, 3], [0, 0, 1], [3, 3, 3]]


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 8), st.integers(1, 120))
def test_batches_hold_every_row_once_within_the_budget(sizes, rows, tokens):
    batches = by_length(sizes, rows, tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) <= rows
        assert len(batch) == 1 or len(batch) * max(sizes[i] for i in batch) <= tokens


def work(batches, sizes, pass_cost):
    return sum(pass_cost + len(batch) * max(1, *(sizes[i] for i in batch), 1) for batch in batches)


def all_ways(order):
    """Every way to cut some rows, in their order, into batches."""
    if not order:
        yield []
    for end in range(1, len(order) + 1):
        yield from ([order[:end], *rest] for rest in all_ways(order[end:]))


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(1, 200), st.integers(1, 80))
def test_passes_are_cut_where_padding_takes_longer_than_a_pass(sizes, tokens, pass_cost):
    batches = least_work(sizes, tokens, pass_cost)
    fits = [
        ways
        for ways in all_ways(longest_first(sizes))
        if all(len(batch) == 1 or len(batch) * max(1, sizes[batch[0]]) <= tokens for batch in ways)
    ]
    assert batches in fits
    assert work(batches, sizes, pass_cost) == min(work(ways, sizes, pass_cost) for ways in fits)


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 200))
def test_where_padding_takes_nothing_only_the_budget_cuts(sizes, tokens):
    assert least_work(sizes, tokens, 0) == by_length(sizes, len(sizes), tokens)


def test_many_rows_are_cut_in_no_time():
    sizes = [20 + i % 7 for i in range(4000)]
    began = time.process_time()
    least_work(sizes, 32_768, 4_096)
    assert time.process_time() - began < 0.2

"""Where tokens stand: no holes, positions from zero, compaction that keeps every real column."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from softprompt.modeling.layout import by_length, compact, contiguous, stack_left

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

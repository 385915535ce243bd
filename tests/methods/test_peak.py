"""Peak memory of a piece of work, and what is said where it cannot be told apart from what was before."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from softprompt.methods import peak
from softprompt.methods.peak import watched
from softprompt.testing.tiny import tiny_backbone

BLOCK = 160


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone("llama")


def block(mib):
    return np.ones(mib * 2**20, dtype=np.uint8)


def can_set_back():
    return peak._set_back()


@pytest.mark.skipif(not can_set_back(), reason="the kernel's mark cannot be set back here")
def test_work_is_seen_at_its_height_and_what_was_before_is_not(backbone):
    block(2 * BLOCK)  # gone before the watch begins
    with watched(backbone) as memory:
        block(BLOCK)
    assert 0.9 * BLOCK < memory.peak - memory.loaded < 1.5 * BLOCK
    assert memory.notes == ()
    with watched(backbone) as nothing:
        pass
    assert nothing.peak - nothing.loaded < 0.2 * BLOCK


def test_where_the_mark_cannot_be_set_back_the_whole_process_counts(backbone, monkeypatch, tmp_path):
    monkeypatch.setattr(peak, "_PROCESS", tmp_path / "nowhere")
    held = block(BLOCK)
    with watched(backbone) as memory:
        pass
    assert memory.peak == memory.loaded > BLOCK
    assert memory.notes == (
        "the peak of memory is that of the whole process, loading included: its mark cannot be set back here",
    )
    del held


def test_macos_counts_bytes(monkeypatch):
    here = peak._high_water()
    monkeypatch.setattr(sys, "platform", "darwin")
    if here > 0:
        assert peak._high_water() == pytest.approx(here / 1024, rel=0.05)


def test_the_figures_stand_when_the_work_fails(backbone):
    with pytest.raises(MemoryError), watched(backbone) as memory:
        raise MemoryError
    assert memory.peak >= memory.loaded > 0

"""PEFT's documented training beside ours: the same rows, weights and first values, timed in turns."""

from __future__ import annotations

import pytest
import torch

from softprompt.errors import MissingExtraError, UnsupportedBackboneError
from softprompt.methods import documented
from softprompt.methods.documented import Ours, Peft, documented_speed
from softprompt.methods.turns import turn_by_turn
from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows


@pytest.fixture(scope="module")
def task():
    """Its training rows are whole batches."""
    return load_task({"train": toy_rows(96), "validation": toy_rows(20, 1), "test": toy_rows(20, 2)}, name="toy")


@pytest.fixture
def backbone():
    return tiny_backbone("gemma3")


def test_rates_are_rows_over_the_time_of_a_step_and_the_weights_are_left(backbone, task):
    pytest.importorskip("peft")
    before = [weight.clone() for weight in backbone.model.parameters()]
    now = iter(x for turn in range(100) for x in (10 * turn, 10 * turn + 1, 10 * turn + 2, 10 * turn + 6))
    # the first turn begins with ours (1 s, then 4 s for PEFT), the second with PEFT, and so on
    found = documented_speed(backbone, task, 1, clock=lambda: float(next(now)))
    assert (found.ours, found.documented, found.ratio) == (32, 8, 4)
    assert (found.steps, found.batch, found.virtual_tokens) == (1, 32, 20)
    assert found.told == (
        "trained as PEFT documents it, prompt tuning learns from 8.0 rows a second, our trainer from 32.0 (×4.0; "
        "medians of 1 steps in turn, 20 virtual tokens, batches of 32)"
    )
    assert all(torch.equal(was, weight) for was, weight in zip(before, backbone.model.parameters(), strict=True))


def test_both_sides_begin_with_the_same_loss(backbone, task):
    pytest.importorskip("peft")
    ours = Ours(backbone, task, 5)
    peft = Peft(backbone, task, ours)
    values = [parameter for parameter in peft.model.parameters() if parameter.requires_grad]
    assert torch.equal(values[0], ours.start)
    inputs = peft._rows.at(0)
    assert inputs.ids.shape[0] == len(ours.batch(0)) == 32
    loss = peft.model(input_ids=inputs.ids, attention_mask=inputs.mask, labels=inputs.labels).loss
    assert torch.isfinite(loss)
    peft.documented(0)
    assert not torch.equal(values[0], ours.start)


def test_without_peft_it_says_what_to_install(backbone, task, monkeypatch):
    monkeypatch.setattr(documented, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"`peft`, which is not installed: pip install \"softprompt\[baselines"):
        documented_speed(backbone, task)


def test_it_is_for_decoders(task):
    pytest.importorskip("peft")
    with pytest.raises(UnsupportedBackboneError, match=r"timed on decoders, and `tiny-bert` is an encoder; leave"):
        documented_speed(tiny_backbone("bert"), task)


def test_every_round_another_side_begins_and_the_first_steps_do_not_count():
    done = []
    seconds = turn_by_turn(
        {"a": lambda n: done.append(("a", n)), "b": lambda n: done.append(("b", n))},
        rounds=2, steps=2, warmup=1, clock=lambda: float(len(done)),
    )  # fmt: skip
    assert done == [
        ("a", 0), ("b", 0), ("a", 1), ("a", 2), ("b", 1), ("b", 2), ("b", 3), ("b", 4), ("a", 3), ("a", 4),
    ]  # fmt: skip
    assert seconds == {"a": [1.0, 1.0], "b": [1.0, 1.0]}

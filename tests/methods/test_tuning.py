import math

import pytest
import torch
from torch import nn

from softprompt.errors import OutOfMemoryError, TrainingError
from softprompt.methods import pauses
from softprompt.methods.masters import Masters
from softprompt.methods.method import Effort
from softprompt.methods.token_rows import BATCH, TokenRows
from softprompt.methods.tuning import SECOND_PATIENCE, Plan, scored, tune
from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows
from softprompt.training.candidates import default_steps


@pytest.fixture(scope="module")
def rows():
    return TokenRows(tiny_backbone("llama"), load_task(toy_rows(80)), 0, 8)


class Bag:
    """Labels by a bag of words: learns the toy task in no time."""

    def __init__(self, dtype=torch.float32):
        self.weight = nn.Parameter(torch.zeros(300, 2, dtype=dtype))
        self.calls = 0

    def groups(self, rate):
        return [{"params": [self.weight], "lr": rate}]

    def label_logits(self, rows):
        return torch.stack([self.weight[list(row.ids)].float().sum(0) for row in rows])

    def loss(self, rows):
        self.calls += 1
        gold = torch.tensor([row.gold for row in rows])
        return nn.functional.cross_entropy(self.label_logits(rows), gold)


class Fails(Bag):
    """Fails at some call of `loss`."""

    def __init__(self, at, error):
        super().__init__()
        self._at, self._error = at, error

    def loss(self, rows):
        if self.calls >= self._at:
            raise self._error
        return super().loss(rows)


PLAN = Plan(0.03, every=54, most=540, warmup=54)


def test_it_learns_and_is_left_in_its_best_state(rows):
    bag = Bag()
    course = tune(bag, rows, PLAN)
    best = min(course.points, key=lambda point: point.loss)
    assert course.points[0].loss == pytest.approx(math.log(2))
    assert course.loss == best.loss < 0.3
    assert scored(bag, rows.validation) == (best.loss, best.accuracy)
    assert course.steps == 70
    assert course.examples == 540
    assert course.stopped == "540 rows were learned from, the most that were planned"


def test_looks_stand_at_fixed_distances_and_are_watched(rows):
    seen = []
    course = tune(Bag(), rows, PLAN, watch=seen.append)
    assert [point.examples for point in course.points] == [54 * n for n in range(11)]
    assert tuple(seen) == course.points


def test_it_ends_after_a_second_plateau(rows):
    course = tune(Bag(), rows, Plan(1.0, every=54, most=10**6))
    losses = [point.loss for point in course.points]
    assert course.stopped == "the validation loss no longer improved"
    assert min(losses[-SECOND_PATIENCE:]) >= min(losses[:-SECOND_PATIENCE])


def test_bf16_weights_learn_by_steps_that_they_could_not_hold():
    weight = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    masters = Masters([{"params": [weight], "lr": 1e-4}])
    for _ in range(200):
        weight.grad = torch.ones_like(weight)
        masters.step(1.0)
    assert weight.dtype == torch.bfloat16
    torch.testing.assert_close(weight.float(), torch.full((4,), 0.98), atol=0.004, rtol=0)


@pytest.mark.parametrize("dies_at", [1, 20, 69])
def test_a_killed_training_goes_on_to_the_same_numbers(rows, tmp_path, monkeypatch, dies_at):
    monkeypatch.setattr(pauses, "_PAUSE", 0)
    whole, again = Bag(), Bag()
    course, effort = tune(whole, rows, PLAN), Effort(folder=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        tune(Fails(dies_at, KeyboardInterrupt()), rows, PLAN, effort)
    resumed = tune(again, rows, PLAN, effort)
    assert torch.equal(again.weight, whole.weight)
    assert again.calls < whole.calls or dies_at == 1
    assert [(p.step, p.loss) for p in resumed.points] == [(p.step, p.loss) for p in course.points]


def test_a_training_that_ended_is_not_run_again(rows, tmp_path):
    first, again, effort = Bag(), Bag(), Effort(folder=tmp_path)
    course = tune(first, rows, PLAN, effort)
    assert tune(again, rows, PLAN, effort) == course
    assert again.calls == 0
    assert torch.equal(again.weight, first.weight)


def test_a_checkpoint_of_another_training_is_not_taken_up(rows, tmp_path, capsys):
    effort, again = Effort(folder=tmp_path), Bag()
    tune(Bag(), rows, PLAN, effort)
    tune(again, rows, Plan(0.01, every=54, most=108), effort)
    assert again.calls == 14
    assert "is of another training (method, rows, rate or length); this one starts anew" in capsys.readouterr().err


def test_a_checkpoint_of_another_method_is_not_taken_up(rows, tmp_path, capsys):
    effort, again = Effort(folder=tmp_path), Bag()
    tune(Bag(), rows, PLAN, effort, title="LoRA")
    tune(again, rows, PLAN, effort, title="(IA)³")
    assert again.calls == 70
    assert "is of another training (method" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_said_and_left_aside(rows, tmp_path, capsys):
    (tmp_path / pauses.FILE).write_bytes(b"nothing of the kind")
    again = Bag()
    tune(again, rows, PLAN, Effort(folder=tmp_path))
    assert again.calls == 70
    assert "is damaged" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_ends_it(rows):
    bag = Bag()
    bag.loss = lambda rows: bag.weight.sum() * math.nan
    with pytest.raises(TrainingError, match=r"the loss is nan at step 1, at a learning rate of 0\.03; take a"):
        tune(bag, rows, PLAN)


def test_a_validation_loss_that_never_was_finite_ends_it(rows):
    bag = Bag()
    bag.label_logits = lambda rows: torch.full((len(rows), 2), math.nan)
    with pytest.raises(TrainingError, match="the validation loss is nan before the first step"):
        tune(bag, rows, PLAN)


def test_a_step_that_does_not_fit_is_done_in_smaller_passes(rows, monkeypatch):
    monkeypatch.setattr("gc.collect", lambda: 0)
    bag, whole = Bag(), Bag()
    loss = bag.loss

    def tight(part):
        if len(part) * max(len(row.ids) for row in part) > 100:
            raise MemoryError
        return loss(part)

    bag.loss = tight
    course, easy = tune(bag, rows, PLAN), tune(whole, rows, PLAN)
    assert bag.calls > whole.calls
    losses = [[point.loss for point in each.points] for each in (course, easy)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-2)  # AdamW makes a whole step of a gradient of mere rounding
    assert course.steps == easy.steps


def test_a_row_that_does_not_fit_by_itself_is_an_error(rows, monkeypatch):
    monkeypatch.setattr("gc.collect", lambda: 0)
    with pytest.raises(OutOfMemoryError, match="step 3 does not fit in memory even one row at a time"):
        tune(Fails(2, MemoryError()), rows, PLAN)


def test_other_errors_are_handed_on(rows):
    with pytest.raises(RuntimeError, match="of another kind"):
        tune(Fails(2, RuntimeError("of another kind")), rows, PLAN)


def test_effort_bounds_the_plan():
    assert Plan.of(2000, 2, 1e-3, Effort()) == Plan(1e-3, every=1200, most=40_000, warmup=1200)
    assert Plan.of(2000, 2, 1e-3, Effort(rate=3.0, share=0.25)) == Plan(3e-3, every=1200, most=3240, warmup=810)
    assert Plan.of(16, 2, 1e-3, Effort()) == Plan(1e-3, every=240, most=4800, warmup=240)
    assert Plan.of(300, 2, 1e-3, Effort(examples=100, seconds=5.0)) == Plan(
        1e-3, every=300, most=100, warmup=25, seconds=5.0
    )


@pytest.mark.parametrize(("labels", "rows"), [(2, 16), (2, 64), (2, 256), (6, 2000), (77, 2000)])
def test_a_rival_may_learn_from_as_many_rows_as_our_longest_prompt(labels, rows):
    ours = 7 * default_steps(labels, rows, BATCH) * min(BATCH, rows)
    assert Plan.of(rows, labels, 1e-3, Effort()).most >= ours


def test_a_step_that_fits_is_one_pass(rows):
    bag = Bag()
    course = tune(bag, rows, PLAN)
    assert rows.pass_cost == 0, "this backbone runs no padding"
    assert bag.calls == course.steps


def test_seconds_end_it(rows):
    course = tune(Bag(), rows, Plan(0.03, every=54, most=10**6, patience=None, seconds=0.2))
    assert course.stopped == "0.2 seconds of training, the most that were planned"
    assert 0.2 <= course.seconds < 2


def test_rates_rise_and_fall_in_straight_lines():
    plan = Plan(1.0, every=10, most=100, warmup=20, linear_to=100)
    assert [plan.share(before, before + 10, 0) for before in (0, 10, 50, 100)] == [0.5, 0.9, 0.5, 0.0]

"""What answering costs: counted by a clock of the test's own, so that no figure depends on the machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from softprompt.methods import merging
from softprompt.methods.catalogue import method
from softprompt.methods.measuring import ALONE, BATCH, CHECKED, ROUNDS, TASKS, measure_speed, same_answers
from softprompt.methods.merging import merged
from softprompt.methods.method import Effort, Fitted
from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows


class Clock:
    """Time passes only where work is done."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Timed:
    """Answers a row in so many seconds, after so many that every call costs."""

    def __init__(self, clock, row, call):
        self.clock, self.row, self.call, self.asked = clock, row, call, []

    def log_probabilities(self, examples):
        self.clock.now += self.call + self.row * len(examples)
        self.asked.append(len(examples))
        return np.full((len(examples), 2), np.log(0.5))


@pytest.fixture
def task():
    return load_task(toy_rows(40))


def test_each_figure_is_what_the_work_takes(task):
    clock = Clock()
    predictor = Timed(clock, row=0.01, call=0.1)

    def switch():
        clock.now += 0.5

    found = measure_speed(Fitted(predictor, 0, 4096, 0.7, switch=switch), None, task, seconds=0.0, clock=clock)
    assert found.latency == pytest.approx(110)
    assert found.rows == pytest.approx(BATCH / (0.1 + 0.01 * BATCH))
    assert found.mixed == pytest.approx(BATCH / (TASKS * (0.5 + 0.1) + 0.01 * BATCH))
    assert found.switch == pytest.approx(500)
    assert found.notes == (
        "rows of 10 tasks come mixed; those of each task are taken together",
        "a switch of tasks puts 4,096 bytes in place from memory; one set stands for all 10, which are not held beside "
        "each other",
    )


def test_nothing_to_switch_takes_no_time_and_no_infinite_rate(task):
    clock = Clock()
    found = measure_speed(Fitted(Timed(clock, 0.0, 0.0), 0, 0, 0.7), None, task, seconds=0.0, clock=clock)
    assert found.switch < 1e-3
    assert np.isfinite([found.latency, found.rows, found.mixed]).all()
    assert found.notes == ("rows of 10 tasks come mixed; those of each task are taken together",)


def test_there_are_enough_rows_alone_and_more_where_there_is_time(task):
    def asked(seconds):
        clock = Clock()
        predictor = Timed(clock, row=0.01, call=0.0)
        measure_speed(Fitted(predictor, 0, 0, 0.7), None, task, seconds=seconds, clock=clock)
        return predictor.asked

    short, long = asked(0.0), asked(10.0)
    assert short.count(1) == ALONE + 2 + CHECKED
    assert short.count(BATCH) == ROUNDS + 2
    assert long.count(1) == 200 + 2 + CHECKED
    assert long.count(BATCH) == 7 + 2


def test_one_slow_row_is_not_the_median(task):
    clock = Clock()

    class Stumbles(Timed):
        def log_probabilities(self, examples):
            clock.now += 30 if len(self.asked) == 5 else 0
            return super().log_probabilities(examples)

    found = measure_speed(Fitted(Stumbles(clock, 0.01, 0), 0, 0, 0.7), None, task, seconds=0.0, clock=clock)
    assert found.latency == pytest.approx(10)


def test_the_predictors_own_way_with_many_tasks_is_taken(task):
    clock, asked = Clock(), []

    class Together:
        notes = ("all at once",)

        def answer(self, tasks, examples):
            asked.append(sorted(set(tasks)))
            clock.now += 2.0
            return np.zeros((len(examples), 2))

        def switch(self, task):
            clock.now += 0.001

    predictor = Timed(clock, 0.0, 1.0)
    predictor.residents = lambda count: Together()
    found = measure_speed(Fitted(predictor, 0, 0, 0.7), None, task, seconds=0.0, clock=clock)
    assert found.mixed == BATCH / 2
    assert found.switch == pytest.approx(1)
    assert found.notes == ("all at once",)
    assert set(map(tuple, asked)) == {tuple(range(TASKS))}


def test_answers_that_do_not_depend_on_the_batch_are_the_same(task):
    assert same_answers(Fitted(Timed(Clock(), 0, 0), 0, 0, 0.7), task.splits["test"]) is None


def test_answers_that_do_are_told(task):
    class Sways:
        def log_probabilities(self, examples):
            up = 0.6 if len(examples) > 1 else 0.4
            return np.log([[up, 1 - up]] * len(examples))

    told = same_answers(Fitted(Sways(), 0, 0, 0.7), task.splits["test"][:4])
    assert told == (
        "answers depend on what else is in the batch: of 4 rows, alone and together, a probability differs by up to "
        "0.200, and 4 get another label"
    )
    assert same_answers(Fitted(Sways(), 0, 0, 0.7), task.splits["test"][:4], tolerance=0.3) is None
    found = measure_speed(Fitted(Sways(), 0, 0, 0.7), None, task, seconds=0.0)
    assert "answers depend on what else is in the batch: of 16 rows" in found.notes[-1]


@pytest.mark.parametrize("name", ["lora", "ia3"])
def test_a_method_of_adapters_is_measured_as_it_is_served_and_left_as_it_was(task, name):
    pytest.importorskip("peft")
    backbone = tiny_backbone("gemma3", dtype=torch.bfloat16)
    fitted = method(name).fit(backbone, task, 0, Effort(examples=64, rate=10.0))
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    state = [layer.merged for layer in backbone.model.modules() if hasattr(layer, "merged_adapters")]
    assert state == [False] * len(state) != []
    answers = fitted.predictor.log_probabilities(task.splits["test"])
    with merged(backbone) as done:
        assert done
        again = fitted.predictor.log_probabilities(task.splits["test"])
        assert all(layer.merged for layer in backbone.model.modules() if hasattr(layer, "merged_adapters"))
    np.testing.assert_allclose(answers, again, atol=0.1)
    found = measure_speed(fitted, backbone, task, seconds=0.0)
    assert merging.NOTE in found.notes
    assert found.rows > 0
    after = backbone.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    np.testing.assert_array_equal(fitted.predictor.log_probabilities(task.splits["test"]), answers)


def test_where_nothing_can_be_merged_nothing_is():
    with merged(tiny_backbone("gemma3")) as done:
        assert not done

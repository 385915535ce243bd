"""Budgets: everything that a training does is paid for, however many rows there are to choose by."""

import json
from pathlib import Path

import pytest
import torch

from softprompt.errors import ConfigError
from softprompt.tasks.load import load_task
from softprompt.testing.toy import toy_rows
from softprompt.training import budget, reporting, trainer
from softprompt.training import train as training
from softprompt.training.bank import gradients
from softprompt.training.budget import STEPS, Course, Price, Spent, shared
from softprompt.training.config import TrainConfig
from softprompt.training.learner import look
from softprompt.training.many import train_many
from softprompt.training.runs import RunFolder
from softprompt.training.train import train

FAST = {"batch_size": 8, "virtual_tokens": 4, "report": False}
SMALL = {"parameterization": "direct", "virtual_tokens": 2, "batch_size": 4}
"""What leaves open only with which first values, and whether with learned rows: three candidates."""


def steps_in(folder: Path) -> int:
    """Optimizer steps of all prompts, wherever in the folder they were done."""
    return sum(
        event["event"] == "step" for file in folder.rglob("metrics.jsonl") for event in RunFolder(file.parent).events()
    )


def rows_of(count: int) -> list[dict[str, str]]:
    return [{**row, "text": f"{row['text']} {number}"} for number, row in enumerate(toy_rows(count))]


def test_a_budget_bounds_a_run_with_few_validation_rows(backbone, task, tmp_path, capsys):
    result = train(backbone, task, run=tmp_path, budget="5 steps", **FAST)  # 60 validation rows
    assert result.fit.steps == steps_in(tmp_path) == 5
    assert "a budget of 5 steps is 5 steps\n" in capsys.readouterr().err


def test_a_budget_too_small_for_a_race_is_the_defaults(backbone, tmp_path, capsys):
    many = load_task({"train": toy_rows(60), "validation": toy_rows(220, 1), "test": toy_rows(10, 2)}, name="race")
    result = train(backbone, many, run=tmp_path, budget="5 steps", **FAST)
    assert result.fit.steps == steps_in(tmp_path) == 5
    assert result.prompt.provenance["race"] == []
    assert "a budget of 5 steps is 5 steps, too few for a race: the default stands\n" in capsys.readouterr().err


def test_a_race_on_folds_is_paid_from_the_budget_where_that_leaves_the_winner_its_steps(backbone, tmp_path, capsys):
    rows = rows_of(520)
    task = load_task({"train": rows[:460], "validation": rows[460:510], "test": rows[510:]}, name="folds")
    settings = {**FAST, **SMALL, "steps": 20}
    rich = train(backbone, task, run=tmp_path / "rich", budget="50 steps", **settings)
    assert "is 41 steps behind a race of 3 candidates on 3 folds\n" in capsys.readouterr().err
    assert rich.prompt.provenance["race"]
    assert rich.fit.steps == 20, "as many as were asked for"
    assert steps_in(tmp_path / "rich") == 3 * 3 + 20
    poor = train(backbone, task, run=tmp_path / "poor", budget="25 steps", **{**settings, "steps": None})
    assert "is 25 steps, too few for a race: the default stands\n" in capsys.readouterr().err
    assert (poor.prompt.provenance["race"], poor.fit.steps, steps_in(tmp_path / "poor")) == ([], 25, 25)


def test_cross_fitted_figures_and_members_share_the_budget(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "report_on", lambda *given: None)
    few = load_task(toy_rows(40), name="few")
    settings = {**FAST, **SMALL, "report": True}
    result = train(backbone, few, run=tmp_path, budget="24 steps", ensemble=3, **settings)
    assert result.fit.steps == 3  # five folds, the prompt, and two more members
    assert steps_in(tmp_path) == 24
    assert result.prompt.provenance["recipe"]["budget"] == "3 steps"
    alone = train(backbone, few, run=tmp_path / "alone", budget="24 steps", **{**settings, "report": False})
    assert alone.fit.steps == 24
    assert reporting.FOLDS == 5


def test_a_course_counts_every_rung_and_every_look():
    price = Price(step=1.0, row=0.01)
    # 4 candidates to step 10 and 2 to step 20, on half of the rows and on all of them; then 1 to step 150
    assert Course(4, rows=100, every=50).cost(150, price) == pytest.approx(40 + 20 + 130 + (4 * 50 + 2 * 100) / 100 + 5)
    assert Course(4).cost(150) == 190
    assert Course(4, rows=90).of_folds(150, 3, STEPS) == 3 * 60
    for amount in (1.0, 7.0, 60.0, 1000.0):
        course = Course(3, rows=50, every=10)
        longest = course.longest(amount, price)
        assert longest == 1 or course.cost(longest, price) <= amount
        assert course.cost(longest + 1, price) > amount
    assert not Course(4).has_winner(1)
    assert Course(4).has_winner(3)


def test_shares_of_a_budget():
    assert [shared(text, 4) for text in ("1h", "90 s", "10 tokens")] == ["900 seconds", "22.5 seconds", "2.5 tokens"]
    assert shared("0.01 s", 64) == "0.001 seconds"
    with pytest.raises(ConfigError, match="the budget is `soon`; write it like"):
        shared("soon", 2)


class Clock:
    """Time that passes where a test says so."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def taking(self, seconds, work):
        def timed(*given):
            self.now += seconds
            return work(*given)

        return timed


@pytest.fixture
def clock(monkeypatch):
    """A step takes a hundredth of a second while it is measured, and looking takes nothing."""
    found = Clock()
    monkeypatch.setattr(budget, "time", found)
    monkeypatch.setattr(budget, "gradients", found.taking(0.01, gradients))
    return found


def test_time_that_validations_take_is_counted(backbone, task, tmp_path, monkeypatch, clock):
    settings = {**FAST, "race": False, "validate_every": 5, "budget": "1.005 s"}
    free = train(backbone, task, run=tmp_path / "free", **settings).fit.steps
    assert free == 95, "five steps were measured"
    monkeypatch.setattr(budget, "look", clock.taking(0.2, look))
    paid = train(backbone, task, run=tmp_path / "paid", **settings).fit.steps
    assert paid == 4, "measuring took 0.45 s, the last looks take 0.4 s"
    plan = json.loads((tmp_path / "paid" / "plan.json").read_text())
    assert plan["unit_per_row"] == pytest.approx(0.2 / 60)


def test_measuring_keeps_within_memory_like_training(backbone, task, tmp_path, monkeypatch, capsys, clock):
    tried = []

    def full(*given):
        tried.append(given[2])
        if given[2] > 512:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return gradients(*given)

    monkeypatch.setattr(budget, "gradients", clock.taking(0.1, full))
    assert train(backbone, task, run=tmp_path, budget="1 s", race=False, **FAST).fit.steps == 3
    assert tried == [2048, 1024, 512, 512, 512, 512, 512]
    assert capsys.readouterr().err.count("did not fit in memory") == 2
    assert json.loads((tmp_path / "plan.json").read_text())["memory"] is None, "training fitted, and goes on so"


def test_a_budget_that_was_measured_is_kept_even_before_the_first_checkpoint(
    backbone, task, tmp_path, monkeypatch, clock
):
    settings = {**FAST, "race": False, "budget": "0.105 s"}

    def killed(*given):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "gradients", killed)
        with pytest.raises(SystemExit):
            train(backbone, task, run=tmp_path, **settings)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["steps"] == 5
    (tmp_path / "plan.json").write_text(json.dumps({**plan, "steps": 3, "memory": [{"step": 0}]}))
    resumed = train(backbone, task, run=tmp_path, resume=True, **settings)
    assert resumed.fit.steps == 3
    assert "memory" not in json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "plan.json").write_text("{")
    (tmp_path / "checkpoint.safetensors").unlink()
    again = train(backbone, task, run=tmp_path, resume=True, **settings)
    assert again.fit.steps == plan["steps"], "a damaged plan is made anew"


def test_what_a_budget_does_not_go_with(backbone, task, tmp_path):
    with pytest.raises(ConfigError, match="the budget is `5m` and extend is 2: a run that goes on would leave its bud"):
        train(backbone, task, run=tmp_path, budget="5m", extend=2, **FAST)
    assert train(backbone, task, run=tmp_path, budget="9 steps", steps=4, **FAST).fit.steps == 4
    with pytest.raises(ConfigError, match="the settings of prompt 1 ask for a budget, `5m`, which `train` has"):
        train_many(backbone, task, [TrainConfig(), TrainConfig(budget="5m")])
    with pytest.raises(ConfigError, match="the settings of prompt 0 ask for an ensemble of 2, which `train`"):
        train_many(backbone, task, [TrainConfig(ensemble=2)])


def test_what_is_spent_adds_up():
    assert Spent.together([Spent(3, 1.0), Spent(4, 0.5)]) == Spent(7, 1.5)
    assert Spent.together([]) == Spent()

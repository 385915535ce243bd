"""Many prompts in one pass: each learns what it would alone, and a race keeps the default unless it is beaten."""

import subprocess
import sys

import pytest
import torch

from softprompt.errors import ConfigError, TrainingError
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows
from softprompt.training import folds
from softprompt.training.bank import gradients
from softprompt.training.budget import Course, parse
from softprompt.training.candidates import field, settled
from softprompt.training.config import TrainConfig
from softprompt.training.folds import chosen_by_folds
from softprompt.training.learner import Learner
from softprompt.training.lesson import Lesson
from softprompt.training.many import train_many
from softprompt.training.race import halving
from softprompt.training.runs import RunFolder
from softprompt.training.selection import survivors
from softprompt.training.train import train
from softprompt.training.trainer import Trainer

BASE = {"steps": 20, "batch_size": 6, "validate_every": 10, "report": False}
KINDS = (
    {"parameterization": "direct", "virtual_tokens": 4},
    {"parameterization": "deep", "virtual_tokens": 6, "learned_rows": True},
    {"parameterization": "residual", "virtual_tokens": 9, "seed": 3, "learning_rate": 0.1},
    {"parameterization": "direct", "virtual_tokens": 2, "learned_rows": True, "batch_size": 11},
    {"parameterization": "deep-mlp", "virtual_tokens": 3, "init": "random"},
)


def lessons(task):
    return [
        Lesson(str(i), TrainConfig(**{**BASE, **kind}), task.template, task.readout, task.rows("train"), [])
        for i, kind in enumerate(KINDS)
    ]


@pytest.fixture(scope="module", params=["gemma3", "gpt2", "bloom", "qwen3"])
def model(request):
    return PromptedModel(tiny_backbone(request.param))


def test_gradients_are_those_of_separate_runs(model, task):
    bank = [Learner(model, lesson) for lesson in lessons(task)]
    shares = [learner.share() for learner in bank]
    together = gradients(model, shares, 10_000)
    cut = gradients(model, [learner.share() for learner in bank], 64)
    for learner, each, parts in zip(bank, together, cut, strict=True):
        (alone,) = gradients(model, [learner.share()], 10_000)
        assert torch.allclose(each.loss, alone.loss, atol=1e-5)
        assert any(gradient.abs().max() > 0 for gradient in alone.gradient.values())
        for site, expected in alone.gradient.items():  # what a window hides from every row has none
            largest = expected.abs().max().clamp(min=1e-6)
            for found in (each, parts):
                assert ((found.gradient[site] - expected).abs().max() / largest) < 1e-5, (learner.lesson.name, site)


def test_losses_over_twenty_steps_are_those_of_separate_runs(model, task, tmp_path):
    def losses(folder):
        steps = [event for event in RunFolder(folder).events() if event["event"] == "step"]
        return {
            name: [event["loss"] for event in steps if event.get("prompt", name) == name] for name in map(str, range(5))
        }

    def fit(name, members):
        folder = RunFolder(tmp_path / name)
        folder.begin({}, resume=False)
        Trainer(model, members, folder).fit()

    fit("bank", lessons(task))
    together = losses(tmp_path / "bank")
    for lesson in lessons(task):
        fit(lesson.name, [lesson])
        alone = losses(tmp_path / lesson.name)[lesson.name]
        assert len(alone) == 20
        assert together[lesson.name] == pytest.approx(alone, abs=1e-4)


def test_other_tasks_share_the_bank(backbone, task, tmp_path):
    other = load_task(
        {"train": toy_rows(90, 5), "validation": toy_rows(30, 6), "test": toy_rows(30, 7)},
        name="other", template="{soft}{bos}{text} ->", label="label",
    )  # fmt: skip
    configs = [TrainConfig(**BASE), TrainConfig(**BASE, parameterization="direct", learned_rows=False)]
    deep, plain = train_many(backbone, [task, other], configs, run=tmp_path)
    assert "layers.0.key" in deep.prompt.tensors
    assert set(plain.prompt.tensors) == {"input"}
    assert plain.prompt.provenance["task"]["name"] == "other"
    again = train_many(backbone, [task, other], configs, run=tmp_path, resume=True)
    assert [each.prompt.digest for each in again] == [deep.prompt.digest, plain.prompt.digest]
    with pytest.raises(TrainingError, match="cannot resume"):
        train_many(backbone, [other, task], configs, run=tmp_path, resume=True)


def test_a_bank_of_nothing_and_tasks_that_do_not_pair_up(backbone, task):
    with pytest.raises(ConfigError, match="0 tasks and 0 settings were given"):
        train_many(backbone, task, [])
    with pytest.raises(ConfigError, match="2 tasks and 1 settings were given; give one task for all"):
        train_many(backbone, [task, task], [TrainConfig()])


def racing_task():
    splits = {"train": toy_rows(120), "validation": toy_rows(220, 1), "test": toy_rows(40, 2)}
    return load_task(splits, name="race")


RACE = {"steps": 30, "batch_size": 8, "virtual_tokens": 4, "validate_every": 10, "report": False}


def test_candidates_race_and_the_winner_trains_on(backbone, tmp_path):
    result = train(backbone, racing_task(), run=tmp_path, **RACE)
    table = result.prompt.provenance["race"]
    assert [sum(row["step"] == step for row in table) for step in (2, 4)] == [4, 2]
    assert [sum(row["goes_on"] for row in table if row["step"] == step) for step in (2, 4)] == [2, 1]
    winner = next(row["candidate"] for row in table if row["step"] == 4 and row["goes_on"])
    assert result.fit.steps == 30
    recipe = result.prompt.provenance["recipe"]
    assert winner.startswith(recipe["parameterization"])
    assert f"rate {recipe['learning_rate']:g}" in winner
    steps = [event for event in RunFolder(tmp_path).events() if event["event"] == "step"]
    assert len(steps) == 4 * 2 + 2 * 2 + 26
    plain = train(backbone, racing_task(), run=tmp_path / "plain", race=False, **RACE)
    assert plain.prompt.provenance["race"] == []


@pytest.fixture(scope="module")
def whole(backbone, tmp_path_factory):
    """What a race gives that nobody interrupts."""
    return train(backbone, racing_task(), run=tmp_path_factory.mktemp("whole"), **RACE).prompt


@pytest.mark.parametrize("stop_at", [1, 3, 4, 9])
def test_a_race_that_was_interrupted_ends_in_the_same_bytes(
    backbone, tmp_path, monkeypatch, interrupt_in, whole, stop_at
):
    interrupt_in(stop_at)
    with pytest.raises(KeyboardInterrupt):
        train(backbone, racing_task(), run=tmp_path / "parts", **RACE)
    monkeypatch.undo()
    resumed = train(backbone, racing_task(), run=tmp_path / "parts", resume=True, **RACE).prompt
    assert resumed.to_bytes() == whole.to_bytes()


def test_the_default_is_not_beaten_by_noise():
    noise = torch.randn(200, generator=torch.Generator().manual_seed(0))
    default = torch.full((200,), -1.0)
    luckier, better = default + noise * 2 + 0.01, default + 0.5 + noise * 0.1
    assert survivors([default, luckier], 1) == [0]
    assert survivors([default, luckier, better], 1) == [2]
    assert survivors([default, luckier, better, default - 1], 2) == [0, 2]


def test_few_validation_rows_hold_no_race(backbone, task, tmp_path):
    result = train(backbone, task, run=tmp_path, **RACE)  # 60 validation rows
    assert result.prompt.provenance["race"] == []


def test_only_what_is_left_open_is_tried(backbone, task):
    def names(**given):
        config = TrainConfig(**given)
        return [*field(config, settled(config, task.template, task.readout, backbone, task.rows("train")))]

    assert names()[0] == "deep + rows, from text, rate 0.02, seed 0"
    assert len(names()) == len(set(names())) == 4
    assert names(learning_rate=0.01, init="text", parameterization="deep", learned_rows=True) == [
        "deep + rows, from text, rate 0.01, seed 0"
    ]
    assert all(name.startswith("direct,") for name in names(exportable=True))


def test_default_steps_count_epochs_by_what_a_step_takes(task):
    """200 rows of a dozen tokens, seen forty times at most: by rows a step, or by the tokens that make them."""

    def steps(family="gemma3", **given):
        backbone = tiny_backbone(family)
        return settled(TrainConfig(**given), task.template, task.readout, backbone, task.rows("train")).steps

    assert (steps(), steps(batch_size=100)) == (180, 80)
    assert (steps(batch_tokens=300), steps(batch_tokens=100_000)) == (180, 40)
    by_tokens = steps(batch_tokens=1500)
    assert 60 < by_tokens < 180
    assert steps("t5", batch_tokens=1500) > by_tokens  # its rows carry the prompt


def test_rungs_end_with_one_candidate():
    for count in range(1, 20):
        rungs = halving(count, 150, 256)
        assert [rung.step for rung in rungs] == [10 * 2**i for i in range(len(rungs))]
        assert (rungs[-1].keep if rungs else 1) == 1
    assert Course(4).cost(150) / 150 < 1.3


@pytest.mark.parametrize("text", ["soon", "5", "-3m", "0 steps", "m", "5 parsecs"])
def test_a_budget_that_is_none(text):
    with pytest.raises(ConfigError, match=f"the budget is `{text}`; write it like `5m`"):
        parse(text)


def test_a_budget_bounds_the_race_and_its_winner(backbone, tmp_path, capsys):
    settings = {**RACE, "steps": None}
    result = train(backbone, racing_task(), run=tmp_path / "steps", budget="60 steps", **settings)
    assert "a budget of 60 steps is" in capsys.readouterr().err
    assert result.fit.steps < 60
    spent = [event for event in RunFolder(tmp_path / "steps").events() if event["event"] == "step"]
    assert 50 <= len(spent) <= 60
    tokens = train(backbone, racing_task(), run=tmp_path / "tokens", budget="2000 tokens", race=False, **settings)
    assert tokens.fit.steps < 40
    timed = train(backbone, racing_task(), run=tmp_path / "time", budget="1s", race=False, **settings)
    again = train(backbone, racing_task(), run=tmp_path / "time", budget="1s", race=False, resume=True, **settings)
    assert again.prompt.digest == timed.prompt.digest


def test_few_validation_rows_choose_by_folds(backbone, tmp_path):
    rows = load_task(toy_rows(120), name="few").rows("train")
    task = racing_task()
    config = TrainConfig(**RACE)
    default = settled(config, task.template, task.readout, backbone, rows)
    candidates = field(config, default)
    model, folder = PromptedModel(backbone), RunFolder(tmp_path)
    asked = (model, rows, task.template, task.readout, candidates, folder)
    name, table, spent = chosen_by_folds(*asked, {"task": "a"}, resume=False)
    assert name in candidates
    assert [row["candidate"] for row in table if row["step"] == 4 and row["goes_on"]] == [name]
    assert [sum(row["step"] == step for row in table) for step in (2, 4)] == [4, 2]
    steps = len([event for event in folder.events() if event["event"] == "step"])
    assert steps == 3 * (4 * 2 + 2 * 2)
    assert steps * (config.batch_size - 1) <= spent.examples <= steps * config.batch_size
    again = chosen_by_folds(*asked, {"task": "a"}, resume=True)
    assert (again.winner, again.spent.examples) == (name, spent.examples)
    with pytest.raises(TrainingError, match=r"cannot resume in .* its run had task = 'a', this one has 'b'"):
        chosen_by_folds(*asked, {"task": "b"}, resume=True)


def test_a_race_on_folds_has_so_many_rows_at_most(backbone, task, tmp_path, monkeypatch):
    seen = []

    class Spy(Trainer):
        def fit(self, **how):
            seen.extend(learner.lesson for learner in self.learners)
            return super().fit(**how)

    monkeypatch.setattr(folds, "ROWS", 30)
    monkeypatch.setattr(folds, "Trainer", Spy)
    config = TrainConfig(**{**RACE, "steps": 3}, parameterization="direct", learned_rows=False)
    candidates = {name: config.model_copy(update={"init": name}) for name in ("text", "labels")}
    asked = (PromptedModel(backbone), task.rows("train"), task.template, task.readout, candidates, RunFolder(tmp_path))
    chosen_by_folds(*asked, {}, resume=False)
    assert [(len(lesson.train), len(lesson.validation)) for lesson in seen] == [(20, 10)] * 6
    for number in range(3):
        learned, judged = ({row.key for row in rows} for rows in (seen[number].train, seen[number].validation))
        assert not learned & judged


def test_two_runs_do_not_share_a_folder(tmp_path):
    script = "import sys; from pathlib import Path; from softprompt.training.runs import RunFolder\n"
    script += "RunFolder(Path(sys.argv[1])).begin({}, resume=False)"

    def other():
        return subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)

    folder = RunFolder(tmp_path)
    folder.begin({}, resume=False)
    refused = other()
    assert refused.returncode == 1
    assert "another process is training in" in refused.stderr
    assert "let it end, or give another folder with --run" in refused.stderr
    folder.release()
    assert other().returncode == 0

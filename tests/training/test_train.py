"""`train` on a toy task: it learns, reports, repeats itself byte for byte, resumes, and gives up honestly."""

import pytest
import torch

from softprompt.errors import ConfigError, TemplateError, TrainingError, UnknownNameError
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.tasks.load import load_task
from softprompt.testing.conformance import prompt
from softprompt.testing.toy import toy_rows
from softprompt.training import trainer
from softprompt.training.bank import gradients
from softprompt.training.config import TrainConfig
from softprompt.training.learner import DONE, Learner
from softprompt.training.lesson import Lesson
from softprompt.training.runs import RunFolder
from softprompt.training.selection import Seen
from softprompt.training.train import train

FAST = {"steps": 24, "batch_size": 16, "virtual_tokens": 6, "validate_every": 8, "learning_rate": 0.2, "report": False}


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def test_a_prompt_learns_the_toy_task(backbone, task, run):
    settings = {
        "steps": 150,
        "batch_size": 32,
        "virtual_tokens": 12,
        "learning_rate": 0.5,
        "clip": 10.0,
        "patience": 20,
    }
    result = train(backbone, task, run=run, **settings)
    assert result.report.figures.accuracy > 0.9
    assert result.prompt.length == 12
    assert "majority" in str(result.report)
    assert "hard text" in str(result.report)
    assert result.prompt.provenance["validation"]["used for"] == "selection"
    events = RunFolder(run).events()
    step = next(event for event in events if event["event"] == "step")
    assert {"loss", "gradient_norm", "token_gradient_norms", "distance", "examples_per_second"} <= set(step)
    assert len(step["token_gradient_norms"]) == 12


def test_the_same_settings_give_the_same_bytes(backbone, task, tmp_path):
    one, two = (train(backbone, task, run=tmp_path / name, **FAST).prompt for name in ("a", "b"))
    other = train(backbone, task, run=tmp_path / "c", **FAST, seed=1).prompt
    assert one.to_bytes() == two.to_bytes()
    assert one.digest != other.digest


def test_only_the_prompt_moves(backbone, task, run):
    before = [parameter.clone() for parameter in backbone.model.parameters()]
    train(backbone, task, run=run, **FAST)
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.model.parameters(), strict=True))
    assert not backbone.model.training


@pytest.mark.parametrize("stop_at", [1, 7, 8, 13])
def test_an_interrupted_run_resumes_to_the_same_bytes(backbone, task, tmp_path, monkeypatch, interrupt_in, stop_at):
    whole = train(backbone, task, run=tmp_path / "whole", **FAST).prompt
    interrupt_in(stop_at)
    with pytest.raises(KeyboardInterrupt):
        train(backbone, task, run=tmp_path / "parts", **FAST)
    monkeypatch.undo()
    resumed = train(backbone, task, run=tmp_path / "parts", resume=True, **FAST).prompt
    assert resumed.to_bytes() == whole.to_bytes()
    steps = [e["step"] for e in RunFolder(tmp_path / "parts").events() if e["event"] == "step"]
    assert steps == list(range(1, 25))


def test_a_finished_run_resumes_to_its_own_end(backbone, task, run):
    first = train(backbone, task, run=run, **FAST).prompt
    assert train(backbone, task, run=run, resume=True, **FAST).prompt.to_bytes() == first.to_bytes()


def test_resuming_with_other_settings_is_refused(backbone, task, run):
    train(backbone, task, run=run, **FAST)
    with pytest.raises(TrainingError, match="cannot resume"):
        train(backbone, task, run=run, resume=True, **{**FAST, "steps": 30})


def test_starting_anew_beside_a_checkpoint_is_said(backbone, task, run, capsys):
    for _ in range(2):
        train(backbone, task, run=run, **FAST)
    assert "starting anew" in capsys.readouterr().err


def test_a_loss_that_is_no_number_keeps_the_best(backbone, task, run, monkeypatch, capsys):
    _poison_after(monkeypatch, 12)
    result = train(backbone, task, run=run, **FAST)
    assert result.fit.step == 8
    assert result.fit.stopped == "the loss was not finite at step 13"
    assert "the best so far (step 8) is kept" in capsys.readouterr().err
    assert all(torch.isfinite(tensor).all() for tensor in result.prompt.tensors.values())


def test_a_loss_that_never_was_a_number_is_an_error(backbone, task, run, monkeypatch):
    _poison_after(monkeypatch, 0)
    with pytest.raises(TrainingError, match="not finite at step 1, before any validation; lower the learning rate"):
        train(backbone, task, run=run, **FAST)


@pytest.mark.parametrize(("slope", "steps"), [(0.5, 24), (0.0, 64)])
def test_a_run_stops_early_where_validation_gets_worse_for_sure(backbone, task, run, monkeypatch, slope, steps):
    """And not on a plateau, noisy as it may be: the rate is still to fall."""
    _worsen(monkeypatch, slope)
    asked = {**FAST, "steps": 64, "validate_every": 8, "patience": 2, "race": False}
    result = train(backbone, task, run=run, **asked)
    assert result.fit.steps == steps
    if slope:
        assert result.fit.stopped == "2 validations were worse than the best for sure"


def test_few_rows_are_cross_fitted(backbone, run):
    task = load_task(toy_rows(40), name="few")
    result = train(backbone, task, run=run, **{**FAST, "steps": 4, "report": True})
    assert "Cross-fitted: each of the 40 rows was scored by a prompt that was trained without it" in str(result.report)
    assert result.report.figures.rows == 40


@pytest.mark.parametrize("init", ["text", "labels", "vocabulary", "random"])
def test_every_start(backbone, task, run, init):
    result = train(backbone, task, run=run, **{**FAST, "steps": 2, "init": init})
    assert result.prompt.provenance["init"]


def test_starting_from_another_prompt(backbone, task, run):
    parent = prompt(backbone, 6)
    with pytest.raises(ConfigError, match="no prompt was given"):
        train(backbone, task, run=run, **{**FAST, "init": "prompt"})
    result = train(backbone, task, run=run, start=parent, **{**FAST, "init": "prompt"})
    assert result.prompt.provenance["parent"] == parent.digest


def test_abstaining_from_unsure_rows(backbone, task, run):
    result = train(backbone, task, run=run, **FAST, abstain_accuracy=0.5)
    assert result.prompt.abstain is not None


def test_unknown_options_and_prompts_that_do_not_fit(backbone, task, run):
    with pytest.raises(UnknownNameError, match="did you mean `steps`"):
        train(backbone, task, run=run, stepz=3)
    with pytest.raises(TemplateError, match="use fewer virtual tokens"):
        train(backbone, task, run=run, **{**FAST, "virtual_tokens": 400})


def test_other_placements_train_too(backbone, run):
    splits = {name: toy_rows(60, seed) for seed, name in enumerate(("train", "validation", "test"))}
    task = load_task(splits, name="toy", text="text", label="label", template="{bos}{text}{soft}\nLabel:")
    result = train(backbone, task, run=run, **FAST)
    assert result.prompt.template.placement == "suffix"


@pytest.mark.parametrize(("gain", "rows", "chosen"), [(0.01, 10, 24), (2.0, 10, 8), (0.01, 300, 24), (0.1, 300, 8)])
def test_an_earlier_prompt_is_not_chosen_on_noise(backbone, task, tmp_path, gain, rows, chosen):
    validation = (task.rows("validation") * 5)[:rows]
    config = TrainConfig(**FAST, validation_rows=rows)
    lesson = Lesson("one", config, task.template, task.readout, task.rows("train"), validation)
    one = Learner(PromptedModel(backbone), lesson)
    noise = torch.linspace(-1, 1, rows)  # the best is ahead of the last by `gain`, give or take one a row
    one._best_terms, one._last_terms = noise + gain, torch.zeros(rows)
    vars(one.state).update(step=24, best_step=8, last_step=24, best={"loss": 0.5}, last={"loss": 0.5}, stopped=DONE)
    assert one.fit(0.0).step == chosen


def _poison_after(monkeypatch, steps):
    """Make the loss no number from the step after `steps` on."""
    learn = Learner.learn
    monkeypatch.setattr(Learner, "learn", lambda self, *seen: None if self.state.step >= steps else learn(self, *seen))


def _worsen(monkeypatch, slope):
    """Let validations be noise around a loss that grows by `slope` from one to the next."""
    generator, looks = torch.Generator().manual_seed(0), iter(range(100))

    def look(*_):
        return Seen.by_loss(-1 - slope * next(looks) - 0.1 * torch.rand(40, generator=generator))

    monkeypatch.setattr(trainer, "look", look)


def test_a_run_that_stopped_early_resumes_to_the_same_bytes(backbone, task, run, monkeypatch):
    _worsen(monkeypatch, 0.5)
    settings = {**FAST, "steps": 400, "patience": 2, "race": False}
    whole = train(backbone, task, run=run, **settings)
    again = train(backbone, task, run=run, resume=True, **settings)
    assert again.prompt.to_bytes() == whole.prompt.to_bytes()
    assert again.fit.steps == whole.fit.steps < 400


def test_a_run_whose_loss_was_no_number_resumes_to_the_same_bytes(backbone, task, run, monkeypatch):
    _poison_after(monkeypatch, 12)
    whole = train(backbone, task, run=run, **FAST)
    monkeypatch.undo()
    assert train(backbone, task, run=run, resume=True, **FAST).prompt.to_bytes() == whole.prompt.to_bytes()


def test_the_report_does_not_change_the_prompt(backbone, tmp_path):
    task = load_task(toy_rows(40), name="few")
    settings = {**FAST, "steps": 4}
    one = train(backbone, task, run=tmp_path / "a", **settings)
    two = train(backbone, task, run=tmp_path / "b", **{**settings, "report": True})
    assert one.prompt.to_bytes() == two.prompt.to_bytes()
    assert one.prompt.provenance["fitted on"] == "all rows"
    assert two.report.trained.sizes == {"all": 40}
    assert two.report.trained.cost["examples"] == 5 * (13 + 14 + 13 + 14) + (11 + 11 + 12 + 11)


def test_a_few_shot_task_is_not_cross_fitted(backbone, run):
    task = load_task(toy_rows(60), name="few", shots=4)
    result = train(backbone, task, run=run, **{**FAST, "steps": 3})
    assert result.prompt.provenance["fitted on"] == "train"
    assert result.fit.examples == 3 * 8


def test_folds_of_another_task_are_not_resumed(backbone, tmp_path, monkeypatch, interrupt_in):
    settings = {**FAST, "steps": 4, "report": True}
    interrupt_in(2)
    with pytest.raises(KeyboardInterrupt):
        train(backbone, load_task(toy_rows(40), name="few"), run=tmp_path, **settings)
    monkeypatch.undo()
    other = load_task(toy_rows(40), name="few", template="{bos}{soft}{text} is", label="label")
    with pytest.raises(TrainingError, match="cannot resume"):
        train(backbone, other, run=tmp_path, resume=True, **settings)


def test_long_rows_go_a_few_at_a_time_with_the_same_gradient(backbone, task):
    model = PromptedModel(backbone)
    for settings in ({}, {"parameterization": "deep", "learned_rows": True}):
        config = TrainConfig(**FAST, **settings)
        one = Learner(model, Lesson("one", config, task.template, task.readout, task.rows("train"), []))
        (whole,), (parts,) = (gradients(model, [one.share()], tokens) for tokens in (10_000, 20))
        assert torch.allclose(whole.loss, parts.loss, atol=1e-6)
        assert set(whole.gradient) == set(one.tensors())
        for site, gradient in whole.gradient.items():
            assert torch.allclose(gradient, parts.gradient[site], atol=1e-6)


def test_row_path_placements_are_said_to_be_slower(backbone, run, capsys):
    task = load_task(toy_rows(60), name="toy", template="{bos}{text}{soft}\nLabel:", label="label", shots=5)
    train(backbone, task, run=run, **{**FAST, "steps": 1})
    assert "they run in every row, slower than in front of it" in capsys.readouterr().err


def test_a_run_goes_on_while_validation_improves_for_sure(backbone, task, tmp_path, capsys, monkeypatch):
    settings = {**FAST, "steps": 8, "validate_every": 4, "extend": 2, "race": False}
    noisy = torch.linspace(-1, 1, 40)
    gains = iter([0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0])  # at steps 4, 5 (two thirds), 8; 12, 16, 18 (again), 20, 24

    def look(model, learner, rows=None):
        before = learner._last_terms if len(learner._last_terms) else torch.full((40,), -9.0)
        return Seen.by_loss(before + next(gains) + 0.1 * noisy)

    monkeypatch.setattr(trainer, "look", look)
    result = train(backbone, task, run=tmp_path / "on", **settings)
    assert "validation still improves: training goes on to step 24" in capsys.readouterr().err
    assert result.fit.steps == 24
    rates = [event["rate"] for event in RunFolder(tmp_path / "on").events() if event["event"] == "step"]
    assert rates[7] < rates[9] > rates[23]
    monkeypatch.setattr(trainer, "look", lambda *seen: Seen.by_loss(-torch.rand(40)))
    assert train(backbone, task, run=tmp_path / "off", **settings).fit.steps == 8


@pytest.mark.parametrize(("gain", "steps"), [(0.01, 8), (0.1, 24)])
def test_a_run_goes_on_where_its_last_third_taught_much_of_all_it_knows(
    backbone, task, tmp_path, monkeypatch, gain, steps
):
    """From 0.69 nats, which two even labels have unread, to 0.5 and a little less; the chance in it is next to none."""
    settings = {**FAST, "steps": 8, "validate_every": 4, "extend": 1, "race": False}
    losses = iter([0.5, 0.5, 0.5 - gain, *[0.5 - gain] * 8])
    noise = 1e-4 * torch.rand(40, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(trainer, "look", lambda *seen: Seen.by_loss(-next(losses) + noise))
    assert train(backbone, task, run=tmp_path, **settings).fit.steps == steps


def test_batches_by_tokens(backbone, task, run):
    config = TrainConfig(**FAST, batch_tokens=120)
    one = Learner(PromptedModel(backbone), Lesson("one", config, task.template, task.readout, task.rows("train"), []))
    batches = [[item for _, item in one.batch(step)] for step in range(6)]
    sizes = [sum(item.length for item in batch) for batch in batches]
    assert max(sizes) <= 120 < min(sizes) * 2
    assert train(backbone, task, run=run, **FAST, batch_tokens=120).fit.steps == 24

"""Training with compiled layers: asked for or where it pays, the same in a run that is resumed, else refused."""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from softprompt.errors import ConfigError
from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows
from softprompt.training import trainer
from softprompt.training.bank import gradients
from softprompt.training.train import train

SETTINGS = {"steps": 12, "batch_size": 8, "virtual_tokens": 4, "race": False, "report": False, "checkpoint_every": 5}
SCRIPT = Path(__file__).with_name("compiled_run.py")


@pytest.fixture
def warmed(monkeypatch):
    """The rows of every warm-up, in place of compiling."""
    seen = []

    @contextmanager
    def instead(_, warm_up):
        def noted(model, shares, tokens, *rest):
            seen.append([row.ids for share in shares for row in share.rows])
            return gradients(model, shares, tokens, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(trainer, "gradients", noted)
            warm_up()
        yield True

    monkeypatch.setattr(trainer, "compiled", instead)
    return seen


def test_a_short_training_is_not_compiled_unless_it_is_asked_for(backbone, task, tmp_path, warmed, monkeypatch):
    plain = train(backbone, task, run=tmp_path / "short", **SETTINGS)
    assert not warmed
    asked = train(backbone, task, run=tmp_path / "asked", compile_layers=True, **SETTINGS)
    assert len(warmed) == 1
    monkeypatch.setattr(trainer, "is_worth_compiling", lambda _, tokens: tokens > 12 * 8 * 3)
    long = train(backbone, task, run=tmp_path / "long", **SETTINGS)
    assert len(warmed) == 2
    train(backbone, task, run=tmp_path / "never", compile_layers=False, **SETTINGS)
    assert len(warmed) == 2
    for other in (asked, long):  # warming up learns nothing
        assert all(other.prompt.tensors[site].equal(tensor) for site, tensor in plain.prompt.tensors.items())


def test_a_resumed_run_warms_up_by_the_same_rows(backbone, task, tmp_path, warmed, interrupt_in):
    interrupt_in(9)
    with pytest.raises(KeyboardInterrupt):
        train(backbone, task, run=tmp_path, compile_layers=True, **SETTINGS)
    train(backbone, task, run=tmp_path, compile_layers=True, resume=True, **SETTINGS)
    assert len(warmed) == 2
    assert warmed[0] == warmed[1]


def test_layers_that_cannot_be_compiled_are_refused(task, tmp_path):
    with pytest.raises(ConfigError, match=r"compile_layers was asked for, and the layers of `tiny-bert` \(BERT, cpu\)"):
        train(tiny_backbone("bert"), task, run=tmp_path, compile_layers=True, **SETTINGS)
    assert not list(tmp_path.iterdir())


def test_layers_that_are_run_again_are_not_compiled(backbone, task, tmp_path, warmed, monkeypatch):
    with pytest.raises(ConfigError, match="compile_layers and checkpoint_layers were both asked for"):
        train(backbone, task, run=tmp_path, compile_layers=True, checkpoint_layers=True, **SETTINGS)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(trainer, "is_worth_compiling", lambda *_: True)
    train(backbone, task, run=tmp_path / "again", checkpoint_layers=True, **SETTINGS)
    assert not warmed
    train(backbone, task, run=tmp_path / "once", **SETTINGS)
    assert len(warmed) == 1


def test_what_a_resumed_run_has_gone_on_by_decides_nothing(backbone, task, tmp_path, warmed, interrupt_in, monkeypatch):
    asked = []
    monkeypatch.setattr(trainer, "is_worth_compiling", lambda _, tokens: asked.append(tokens))
    monkeypatch.setattr("softprompt.training.learner.Learner.goes_on", goes_on_once)
    settings = {**SETTINGS, "extend": 1}
    interrupt_in(20)
    with pytest.raises(KeyboardInterrupt):
        train(backbone, task, run=tmp_path, **settings)
    found = train(backbone, task, run=tmp_path, resume=True, **settings)
    assert found.fit.steps > SETTINGS["steps"]
    assert len(asked) == 2
    assert asked[0] == asked[1]


def goes_on_once(self):
    """A run that is extended once, to three times its length."""
    if self.state.extended:
        return False
    self.state.begin, self.state.extended, self.state.until = self.state.until, 1, 3 * self.state.until
    return True


@pytest.mark.slow
def test_killed_and_resumed_it_gives_the_same_bytes(tmp_path):
    whole = run(tmp_path / "whole", compiles=1)
    eager = run(tmp_path / "eager", compiles=0)
    assert whole["losses"] == pytest.approx(eager["losses"], abs=1e-4)
    assert run(tmp_path / "killed", compiles=1, kill=8) is None
    assert run(tmp_path / "killed", compiles=1) == whole


def run(folder, *, compiles, kill=0):
    """Train in a process of its own; what it says of its prompt, or None where it was killed."""
    command = [sys.executable, str(SCRIPT), str(folder), str(compiles), str(kill)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode == 0) == (not kill), done.stderr[-2000:]
    return None if kill else json.loads(done.stdout)


def test_minutes_do_not_pay_for_compiling(tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("nothing is compiled")

    monkeypatch.setattr("softprompt.training.trainer.is_worth_compiling", lambda *_: True)
    monkeypatch.setattr("softprompt.training.trainer.compiled", never)
    task = load_task({"train": toy_rows(24), "validation": toy_rows(8, 1), "test": toy_rows(4, 2)}, name="timed")
    few = {"steps": 2, "batch_size": 6, "virtual_tokens": 3, "validate_every": 2, "race": False, "report": False}
    assert train(tiny_backbone("gemma3"), task, run=tmp_path, budget="1m", **few).fit.steps == 2

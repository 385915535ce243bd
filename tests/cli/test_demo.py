"""`softprompt demo`: the main job from end to end, here with a tiny backbone and a few rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from softprompt.backbones import backbone as loading
from softprompt.cli import demo as verb
from softprompt.errors import TrainingError
from softprompt.store.store import PromptStore
from softprompt.tasks import load
from softprompt.training import trainer

pytest.importorskip("matplotlib", reason="pictures need the `report` extra")

WORDS = {
    "tweet-sentiment": {"positive": "good", "neutral": "", "negative": "bad"},
    "sms-spam": {"ham": "hi", "spam": "win"},
}


@pytest.fixture(autouse=True)
def small_data(monkeypatch, without_encoder):
    """A few rows under the names of the packaged data sets."""
    real = load.load_task

    def few(source, **how):
        labels = WORDS[source]
        rows = [{"text": f"{labels[label]} text {i}", "label": label} for i in range(60) for label in labels]
        return real({"train": rows[:80], "validation": rows[80:100], "test": rows[100:]}, name=source, **how)

    monkeypatch.setattr(load, "load_task", few)


def test_it_teaches_two_prompts_and_runs_them_together(call):
    result = call("demo", "--quick")
    assert result.exit_code == 0, result.output
    shown = result.stdout
    order = [
        "== data", "== backbone: gemma-3-270m", "== sentiment", "tweet-sentiment: ", "== spam", "sms-spam: ",
        "== both prompts, one batch", "\ntext  ", "== picture", "sizes:", "picture: demo.png", "time:", "together",
        "try next:",
    ]  # fmt: skip
    places = [shown.index(part) for part in order]
    assert places == sorted(places)
    for line in verb.LINES:
        assert line[:50] in shown
    assert Path("demo.png").read_bytes().startswith(b"\x89PNG")
    assert [each.name for each in PromptStore().list()] == ["sentiment", "spam"]
    assert "report" in PromptStore().evaluations(PromptStore().resolve("spam"))


def test_what_was_interrupted_goes_on_and_what_was_finished_begins_anew(monkeypatch, capsys):
    backbone, task = loading.load_backbone("gemma-3-270m"), load.load_task("sms-spam")
    settings = {**verb.QUICK, "checkpoint_every": 1}
    advance = trainer.Trainer._advance

    def stopped(self, progress):
        if self.step == 2:
            raise KeyboardInterrupt
        return advance(self, progress)

    def interrupted():
        with monkeypatch.context() as patch:
            patch.setattr(trainer.Trainer, "_advance", stopped)
            with pytest.raises(KeyboardInterrupt):
                verb._learn(backbone, task, "spam", settings)
        assert "the demo has stopped and its last step is safe: the same command goes on" in capsys.readouterr().err
        assert PromptStore().list() == ()

    interrupted()
    interrupted()
    verb._learn(backbone, task, "spam", {**settings, "steps": 3})
    assert "starting anew: cannot resume in " in capsys.readouterr().err
    PromptStore().remove("spam")
    interrupted()
    verb._learn(backbone, task, "spam", settings)
    assert "going on from step 2" in capsys.readouterr().err
    PromptStore().remove("spam")
    interrupted()


def test_a_run_that_cannot_go_on_for_another_reason_is_an_error(monkeypatch):
    def broken(*_, **__):
        raise TrainingError("the loss is not finite")

    monkeypatch.setattr("softprompt.training.train.train", broken)
    backbone, task = loading.load_backbone("gemma-3-270m"), load.load_task("sms-spam")
    with pytest.raises(TrainingError, match="the loss is not finite"):
        verb._learn(backbone, task, "spam", verb.QUICK)

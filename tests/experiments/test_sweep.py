"""A sweep: chosen by validation loss alone, resumable, and honest about it."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from softprompt.errors import ConfigError, DataError, MissingExtraError, OutOfMemoryError, TrainingError
from softprompt.experiments import sweep as sweeping
from softprompt.experiments import sweep_result, trials
from softprompt.experiments.sweep import sweep
from softprompt.tasks.load import load_task
from softprompt.testing.toy import toy_rows
from softprompt.training.config import TrainConfig

pytest.importorskip("optuna", reason="sweeps need the `search` extra")

SPACE = {"learning_rate": "log:0.003:0.1", "init": ["text", "random"]}


def test_the_best_is_the_lowest_validation_loss_and_its_settings_train(backbone, task, short, tmp_path):
    found = sweep(backbone, task, SPACE, short, trials=3, folder=tmp_path / "s")
    assert [trial.number for trial in found.trials] == [0, 1, 2]
    assert found.best.loss == min(trial.loss for trial in found.trials)
    written = yaml.safe_load(found.best_file.read_text())
    assert written == {**found.settings, **found.best.settings}
    config = TrainConfig.read(found.best_file)
    assert (config.learning_rate, config.steps) == (found.best.settings["learning_rate"], 2)
    assert config.report
    shown = str(found)
    assert "trial    loss  accuracy  learning_rate" in shown
    assert "There are only 8 validation rows: trials with nearly the same loss are equals." in shown
    assert "used for selection 3 times over" in shown
    assert json.loads((found.folder / "sweep.json").read_text()) == found.to_json()


def test_a_picture_in_two_formats(backbone, task, short, tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need the `report` extra")
    found = sweep(backbone, task, SPACE, short, trials=2, folder=tmp_path / "s")
    assert found.picture == tmp_path / "s" / "sweep.png"
    text = (tmp_path / "s" / "sweep.svg").read_text()
    for words in ("learning_rate", "init", "best so far", "validation loss in nats"):
        assert words in text


def test_the_test_rows_are_never_there(backbone, task, short, monkeypatch, tmp_path):
    seen = []

    def spy(frozen, shown, config, **how):
        seen.append((set(shown.splits), config.report))
        return real(frozen, shown, config, **how)

    real = trials.train
    monkeypatch.setattr(trials, "train", spy)
    sweep(backbone, task, SPACE, short, trials=1, folder=tmp_path / "s")
    assert seen == [({"train", "validation"}, False)]
    run = json.loads((tmp_path / "s" / "trials" / "0001" / "run.json").read_text())
    assert run["fitted on"] == "train"


def test_more_trials_go_on_where_fewer_ended(backbone, task, short, tmp_path, capsys):
    first = sweep(backbone, task, SPACE, short, trials=1, folder=tmp_path / "s")
    more = sweep(backbone, task, SPACE, short, trials=2, folder=tmp_path / "s")
    assert more.trials[:1] == first.trials
    assert len(more.trials) == 2
    assert capsys.readouterr().err.count("trial 1 of") == 2  # begun and ended once
    again = sweep(backbone, task, SPACE, short, trials=2, folder=tmp_path / "s")
    assert again.trials == more.trials


def test_an_interrupted_trial_is_taken_up_and_the_sweep_is_the_same(backbone, task, short, tmp_path, monkeypatch):
    calm = sweep(backbone, task, SPACE, short, trials=2, folder=tmp_path / "calm")
    real = trials.train

    def stopped(*given, **how):
        real(*given, **how)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trials, "train", stopped)
        with pytest.raises(KeyboardInterrupt):
            sweep(backbone, task, SPACE, short, trials=2, folder=tmp_path / "cut")
    assert not list((tmp_path / "cut").rglob("trial.json"))
    after = sweep(backbone, task, SPACE, short, trials=2, folder=tmp_path / "cut")
    assert [(t.settings, t.loss) for t in after.trials] == [(t.settings, t.loss) for t in calm.trials]


def test_a_trial_that_fails_is_said_and_the_others_count(backbone, task, short, tmp_path, monkeypatch):
    real = trials.train

    def sometimes(frozen, shown, config, **how):
        if config.init == "random":
            raise TrainingError("the loss is\nnot finite")
        return real(frozen, shown, config, **how)

    monkeypatch.setattr(trials, "train", sometimes)
    found = sweep(backbone, task, {"init": ["text", "random"]}, short, trials=6, folder=tmp_path / "s")
    failed = [trial for trial in found.trials if trial.loss is None]
    assert 0 < len(failed) < 6
    assert {trial.failed for trial in failed} == {"the loss is not finite"}
    assert found.best.settings == {"init": "text"}
    assert f"{len(failed)} of 6 trials failed; why stands in their folders." in str(found)
    assert " failed " in str(found)


def test_a_trial_that_failed_for_want_of_memory_is_tried_again_once_a_run(backbone, task, short, tmp_path, monkeypatch):
    real, tries = trials.train, []

    def sometimes(frozen, shown, config, **how):
        tries.append(config.init)
        if len(tries) in (1, 3):
            raise OutOfMemoryError("step 1 does not fit")
        return real(frozen, shown, config, **how)

    def found():
        return sweep(backbone, task, {"init": ["text", "random"]}, short, trials=2, folder=tmp_path / "s")

    monkeypatch.setattr(trials, "train", sometimes)
    first = found()
    assert [trial.failed for trial in first.trials] == ["step 1 does not fit", None]
    assert "1 of 2 trials failed" in str(first)
    assert "still running" not in str(first)
    second, third = found(), found()
    assert [trial.failed for trial in second.trials] == ["step 1 does not fit", None]
    assert [trial.failed for trial in third.trials] == [None, None]
    assert len(tries) == 4
    assert found().trials == third.trials
    assert len(tries) == 4, "what has ended is not done again"


def test_settings_that_are_mappings_are_kept_whole(backbone, task, short, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(sweeping, "learn", lambda b, t, config, folder, start: seen.append(config) or fitted())
    space = {"settings": [{"rank": 2}, {"rank": 4}]}
    found = sweep(backbone, task, space, short, trials=2, folder=tmp_path / "s")
    assert all(trial.settings["settings"] in ({"rank": 2}, {"rank": 4}) for trial in found.trials)
    assert [config.settings for config in seen] == [trial.settings["settings"] for trial in found.trials]


def fitted():
    class Result:
        class fit:  # noqa: N801
            validation, examples, seconds = {"loss": 0.5, "accuracy": 1.0}, 8, 0.1

    return Result


def test_every_trial_is_one_plain_run(backbone, task, short, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(sweeping, "learn", lambda b, t, config, folder, start: seen.append(config) or fitted())
    sweep(backbone, task, SPACE, short, trials=1, folder=tmp_path / "s")
    assert (seen[0].race, seen[0].extend, seen[0].steps, seen[0].report) == (False, 0, 2, False)


def test_what_cannot_be_a_sweep(backbone, task, short, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="asked for 0 trials; ask for at least 1"):
        sweep(backbone, task, SPACE, trials=0)
    with pytest.raises(ConfigError, match="`steps` both varies and is fixed; take it out of the search, or do not set"):
        sweep(backbone, task, {"steps": [1, 2]}, short)
    with pytest.raises(ConfigError, match="`ensemble` is 2, and each training of a sweep is one plain run; leave ens"):
        sweep(backbone, task, SPACE, TrainConfig(ensemble=2))
    with pytest.raises(ConfigError, match="`race` is True, and each training of a sweep is one plain run; leave race"):
        sweep(backbone, task, SPACE, TrainConfig(race=True))
    rows = load_task({"train": toy_rows(8)}, name="bare")
    with pytest.raises(DataError, match="the task `bare` has no validation rows to choose by; give it a validation"):
        sweep(backbone, trials.replace(rows, splits={"train": rows.splits["train"]}), SPACE, short)
    sweep(backbone, task, SPACE, short, trials=1, folder=tmp_path / "s")
    with pytest.raises(ConfigError, match=r"`.*s` holds an experiment with space = "):
        sweep(backbone, task, {"init": ["text", "random"]}, short, trials=1, folder=tmp_path / "s")
    monkeypatch.setattr(sweeping, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'a sweep needs optuna, .* pip install "softprompt\[search\]"'):
        sweep(backbone, task)


def test_a_sweep_whose_trials_all_fail(backbone, task, short, tmp_path, monkeypatch):
    def never(*given, **how):
        raise TrainingError("no step was finite")

    monkeypatch.setattr(trials, "train", never)
    with pytest.raises(TrainingError, match="none of the 2 trials gave a validation loss; no step was finite"):
        sweep(backbone, task, SPACE, short, trials=2, folder=tmp_path / "s")


def test_without_matplotlib_there_is_no_picture_and_that_is_said(backbone, task, short, tmp_path, monkeypatch, capsys):
    def missing(*given, **how):
        raise MissingExtraError("pictures need matplotlib")

    monkeypatch.setattr(sweep_result, "search_history", missing)
    assert sweep(backbone, task, SPACE, short, trials=1, folder=tmp_path / "s").picture is None
    assert "no picture: pictures need matplotlib" in capsys.readouterr().err


def test_only_the_first_trials_of_many_are_printed(backbone, task, short, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_result, "SHOWN", 1)
    found = sweep(backbone, task, SPACE, short, trials=2, folder=tmp_path / "s")
    assert re.search(r"and 1 more in .*sweep\.json", str(found))


def test_trials_that_run_elsewhere_are_counted_not_shown(task, tmp_path):
    done = [sweep_result.Trial(0, {"init": "text"}, loss=0.5)]
    found = sweep_result.SweepResult.of(tmp_path, task, done, 2, ["init"], {})
    assert "2 more are still running in other processes, and are not in this table." in found.notes
    with pytest.raises(TrainingError, match="none of the 1 trials gave a validation loss; they are still running in"):
        sweep_result.SweepResult.of(tmp_path, task, [], 1, ["init"], {})


def test_a_run_that_cannot_go_on_begins_anew(backbone, task, short, tmp_path, capsys):
    trials.learn(backbone, task, short, tmp_path)
    again = trials.learn(backbone, task, TrainConfig.read(**{**short.model_dump(), "steps": 3}), tmp_path)
    assert again.fit.steps == 3
    assert "starting anew: cannot resume in" in capsys.readouterr().err

"""A study: every cell once, judged on the same rows, drawn with what chance would do."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
import torch

from softprompt.errors import (
    ConfigError,
    DataError,
    MissingExtraError,
    OutOfMemoryError,
    StorageError,
    TrainingError,
    UnknownNameError,
)
from softprompt.evaluation.statistics import accuracy_interval
from softprompt.experiments import study_cells, study_result, trials
from softprompt.experiments.study import Study
from softprompt.experiments.study_cells import Measured, judged_rows, row_interval
from softprompt.experiments.study_grid import KINDS, Cell, Grid, placed
from softprompt.experiments.study_result import Point, StudyResult
from softprompt.tasks.load import load_task
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows
from softprompt.training.config import TrainConfig

BARE = TrainConfig(steps=2, batch_size=4, validate_every=2, validation_rows=8)


def cell(value=5, seed=0, right="1100", backbone="m", **changes):
    return Measured(backbone, value, seed, **{"parameters": 10, "right": right, "loss": 0.5, "seconds": 2.0, **changes})


def result_of(tmp_path, task, cells, split="validation", kind="length", seeds=(0, 1)):
    done = {Cell(each.backbone, each.value, each.seed): each for each in cells}
    names, values = (list(dict.fromkeys(getattr(each, name) for each in cells)) for name in ("backbone", "value"))
    grid = Grid.of(kind, names, task, None if kind == "size" else values, seeds)
    return StudyResult.of(grid, task, done, trials.as_in_papers(BARE), split, tmp_path)


def test_lengths_with_intervals_in_every_format(backbone, task, tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need the `report` extra")
    asked = Study.of("length", [backbone], task, values=[1, 3], seeds=[0, 1], config=BARE, folder=tmp_path / "s")
    found = asked.run()
    assert [(point.value, point.seeds) for point in found.points] == [(1, 2), (3, 2)]
    for point in found.points:
        low, high = point.interval
        assert low <= point.accuracy <= high
        assert point.worst <= point.accuracy <= point.best
    cells = json.loads((tmp_path / "s" / "cells" / "tiny-llama" / "3" / "seed-1" / "cell.json").read_text())
    assert (cells["value"], cells["seed"], len(cells["right"]), cells["failed"]) == (3, 1, 8, None)
    run = json.loads((tmp_path / "s" / "cells" / "tiny-llama" / "3" / "seed-1" / "run.json").read_text())
    assert run["fitted on"] == "train"
    rows = list(csv.DictReader((tmp_path / "s" / "study.csv").read_text().splitlines()))
    assert [float(row["accuracy"]) for row in rows] == [point.accuracy for point in found.points]
    assert json.loads((tmp_path / "s" / "study.json").read_text())["points"][0]["value"] == 1
    page = (tmp_path / "s" / "study.md").read_text()
    assert page.startswith("| virtual tokens | backbone | accuracy | 95 % over rows | sd | seeds: worst-best | loss |")
    assert "Accuracy on 8 validation rows of toy, which also chose the step of each prompt: figures flatter." in page
    assert "2 seeds each: a rough figure of their spread." in str(found)
    drawing = (tmp_path / "s" / "study.svg").read_text()
    assert all(words in drawing for words in ("virtual tokens", "accuracy in %, validation rows", "tiny-llama"))
    assert found.picture.read_bytes().startswith(b"\x89PNG")


def test_cells_that_have_ended_are_not_repeated_and_more_may_be_asked_for(backbone, task, tmp_path, monkeypatch):
    def asked(values, seeds):
        return Study.of("length", [backbone], task, values=values, seeds=seeds, config=BARE, folder=tmp_path / "s")

    asked([1], [0]).run()
    seen, real = [], trials.train
    monkeypatch.setattr(trials, "train", lambda *a, **k: seen.append(k["run"].parts[-2:]) or real(*a, **k))
    assert len(asked([1, 2], [0, 1]).run().points) == 2
    assert seen == [("1", "seed-1"), ("2", "seed-0"), ("2", "seed-1")]
    plan = asked([1, 2], [0, 1, 2]).plan()
    assert len(plan.done) == 4
    assert plan.seconds == pytest.approx(2 * sum(each.seconds for each in plan.done.values()) / 4)


def test_a_plan_says_what_it_takes_and_does_nothing(task, tmp_path):
    plan = Study.of("length", ["big"], task, values=[1, 5], seeds=[0], config=BARE, folder=tmp_path / "s").plan()
    assert str(plan).splitlines()[:3] == [
        "to do  big  virtual tokens 1  seed 0",
        "to do  big  virtual tokens 5  seed 0",
        "2 cells, 0 done; each 2 steps of 4 rows at most: 4 steps, 16 rows in all",
    ]
    assert "unknown before the first has ended; then each is judged on 8 validation rows" in str(plan)
    told = plan.to_json()
    assert told["cells"][1] == {"backbone": "big", "value": 5, "seed": 0, "method": "", "done": False}
    assert (told["steps"], told["seconds left"]) == (4, None)
    assert not (tmp_path / "s").exists()


def test_sizes_load_each_backbone_once_and_place_it_by_its_parameters(task, tmp_path):
    loaded = []

    def load(name):
        loaded.append(name)
        return tiny_backbone(name)

    asked = Study.of("size", ["llama", "gpt2"], task, seeds=[0, 1], config=BARE, folder=tmp_path, load=load, rows=4)
    found = asked.run()
    assert loaded == ["llama", "gpt2"]
    assert [point.parameters for point in found.points] == [
        sum(weight.numel() for weight in tiny_backbone(name).model.parameters()) for name in loaded
    ]
    assert f"{found.points[0].parameters:,}" in str(found)
    assert "Accuracy on 4 validation rows" in found.notes[-4]
    asked.run()
    assert loaded == ["llama", "gpt2"]


def test_test_rows_judge_and_are_not_seen_before(backbone, task, tmp_path, monkeypatch):
    seen, real = [], trials.train
    monkeypatch.setattr(trials, "train", lambda b, t, c, **k: seen.append(sorted(t.splits)) or real(b, t, c, **k))
    asked = Study.of("seeds", [backbone], task, values=[3, 4], config=BARE, split="test", folder=tmp_path / "s")
    found = asked.run()
    assert seen == [["train", "validation"]] * 2
    assert [(point.value, point.seeds, point.deviation) for point in found.points] == [(3, 1, None), (4, 1, None)]
    said = str(found)
    assert "Accuracy on 10 test rows of toy, which took part in no choice yet." in said
    assert "A setting chosen by these figures has been chosen on the test rows: report it on others." in said
    assert re.search(r"Over 2 seeds: mean [\d.]+, sd [\d.]+, worst [\d.]+\.", said)


def test_placements_reach_the_prompt(backbone, task, tmp_path):
    asked = Study.of("placement", [backbone], task, seeds=[0], config=BARE, folder=tmp_path / "s")
    assert asked.grid.values == ("prefix", "suffix", "interleaved")
    asked.run()
    found = {
        place: json.loads((tmp_path / "s" / "cells" / "tiny-llama" / place / "seed-0" / "run.json").read_text())
        for place in asked.grid.values
    }
    assert found["suffix"]["template"]["pattern"] == "{bos}Text: {text}{soft}\nLabel:"
    assert found["prefix"]["template"]["pattern"] == task.template.pattern


@pytest.mark.parametrize("pattern", ["{bos}{soft}A: {a}\nB: {b}\nC:", "{{x}} {soft}{a} and {soft}{b}. {bos}It"])
def test_a_template_keeps_its_text_wherever_the_prompt_stands(pattern):
    bare = pattern.replace("{soft}", "")
    for place in KINDS["placement"].values:
        moved = placed(Template(pattern, 9), place)
        assert moved.placement == place
        assert (moved.pattern.replace("{soft}", ""), moved.max_tokens) == (bare, 9)
        assert placed(moved, place) == moved


def test_a_cell_that_fails_is_said_and_the_others_stand(backbone, task, tmp_path, monkeypatch):
    real = trials.train

    def sometimes(frozen, shown, config, **how):
        if config.virtual_tokens == 2:
            raise TrainingError("not\nfinite")
        return real(frozen, shown, config, **how)

    monkeypatch.setattr(trials, "train", sometimes)
    asked = Study.of("length", [backbone], task, values=[1, 2], seeds=[0], config=BARE, folder=tmp_path / "s")
    found = asked.run()
    assert [point.value for point in found.points] == [1]
    assert "Failed: virtual tokens 2, seed 0: not finite" in found.notes
    assert "One seed each: how much chance alone moves these figures is not known." in found.notes
    alone = Study.of("length", [backbone], task, values=[2], seeds=[0], config=BARE, folder=tmp_path / "s")
    with pytest.raises(TrainingError, match="none of the 1 cells of the study gave a figure; not finite"):
        alone.run()


@pytest.mark.parametrize(
    "full", [OutOfMemoryError("step 1 does not fit"), torch.OutOfMemoryError("step 1 does not fit")]
)
def test_a_cell_that_failed_for_want_of_memory_is_tried_again(backbone, task, tmp_path, monkeypatch, full):
    def asked():
        return Study.of("length", [backbone], task, values=[1, 2], seeds=[0], config=BARE, folder=tmp_path / "s")

    real, tries = trials.train, []

    def sometimes(frozen, shown, config, **how):
        tries.append(config.virtual_tokens)
        if config.virtual_tokens == 2 and len(tries) < 3:
            raise full
        return real(frozen, shown, config, **how)

    monkeypatch.setattr(trials, "train", sometimes)
    found = asked().run()
    assert "Failed: virtual tokens 2, seed 0: step 1 does not fit" in found.notes
    assert str(asked().plan()).startswith(
        "done   tiny-llama  virtual tokens 1  seed 0\nto do  tiny-llama  virtual tokens 2"
    )
    again = asked().run()
    assert [point.value for point in again.points] == [1, 2]
    assert not any(note.startswith("Failed") for note in again.notes)
    asked().run()
    assert tries == [1, 2, 2]


def test_a_cell_that_failed_by_its_settings_is_not_tried_again(backbone, task, tmp_path, monkeypatch):
    tries = []

    def never(*given, **how):
        tries.append(1)
        raise TrainingError("not finite")

    monkeypatch.setattr(trials, "train", never)
    for _ in range(2):
        with pytest.raises(TrainingError, match="none of the 1 cells of the study gave a figure; not finite"):
            Study.of("length", [backbone], task, values=[1], seeds=[0], config=BARE, folder=tmp_path / "s").run()
    assert tries == [1]


def test_a_cell_takes_the_steps_that_the_plan_says(backbone, task, tmp_path):
    plan = Study.of("length", [backbone], task, values=[1], seeds=[0], folder=tmp_path / "s").plan()
    assert plan.config.extend == 0
    assert plan.steps == plan.config.length == 40
    long = TrainConfig(**BARE.model_dump(exclude_unset=True), extend=2)
    longer = Study.of("length", [backbone], task, values=[1, 5], seeds=[0], config=long, folder=tmp_path / "s").plan()
    assert "2 cells, 0 done; each 14 steps of 4 rows at most: 28 steps, 112 rows in all" in str(longer)
    assert any("14 steps of 4 rows at most" in note for note in StudyResult.of(*given(task, long), tmp_path).notes)


def test_a_cell_that_another_process_is_at_is_left_to_it(backbone, task, tmp_path):
    asked = Study.of("length", [backbone], task, values=[1, 2], seeds=[0], config=BARE, folder=tmp_path / "s")
    busy = next(iter(asked.grid))
    with asked.folder.held(f"cell-{study_cells_name(busy)}"):
        found = asked.run()
    assert [point.value for point in found.points] == [2]
    assert "1 of 2 cells have not ended, and are not in these figures." in found.notes


def study_cells_name(cell):
    from softprompt.experiments.folder import named

    return named(cell.name)


def test_rows_that_training_saw_are_counted(backbone, tmp_path):
    rows = toy_rows(24)
    copied = load_task({"train": rows, "validation": rows[:4] + toy_rows(4, 1), "test": toy_rows(10, 2)}, name="copied")
    found = Study.of("length", [backbone], copied, values=[1], seeds=[0], config=BARE, folder=tmp_path).run()
    assert "4 rows of validation stand in rows that training saw, text for text." in found.notes


def test_another_study_in_the_folder_is_refused(backbone, task, tmp_path):
    asked = Study.of("length", [backbone], task, values=[1], seeds=[0], config=BARE, folder=tmp_path)
    asked.folder.begin({"experiment": "sweep"})
    with pytest.raises(ConfigError, match=r"holds an experiment with backbone|holds an experiment with experiment"):
        asked.run()


def test_without_a_name_the_folder_is_told_by_what_is_studied(task, home):
    def folder(**how):
        return Study.of("length", ["m"], task, **how).folder.path

    assert folder().parent == home / "runs"
    assert folder().name.startswith("study-length-toy-")
    assert folder(seeds=[5]) == folder(values=[3]) == folder() != folder(config=BARE)


def test_the_interval_is_that_of_rows_and_not_of_rows_times_seeds():
    one = cell(right="1" * 30 + "0" * 70)
    same = [one, cell(seed=1, right=one.right), cell(seed=2, right=one.right)]
    assert row_interval(same) == pytest.approx(row_interval([one]))
    gold = np.zeros(100, dtype=np.int64)
    predicted = np.array([0] * 30 + [1] * 70)
    assert row_interval([one]) == pytest.approx(tuple(accuracy_interval(gold, predicted)), abs=0.02)
    opposite = cell(seed=1, right="0" * 30 + "1" * 70)
    assert row_interval([one, opposite]) == (0.5, 0.5)


def test_a_point_sums_up_its_seeds():
    point = Point.of([cell(right="1111", loss=0.2), cell(seed=1, right="1100", loss=0.4)])
    assert (point.accuracy, point.worst, point.best, point.seeds) == (0.75, 0.5, 1.0, 2)
    assert point.deviation == pytest.approx(0.35355, abs=1e-4)
    assert point.loss == pytest.approx(0.3)


def test_every_cell_trains_what_papers_do_unless_something_else_is_asked_for(task, tmp_path):
    kinds = [TrainConfig(), TrainConfig(parameterization="deep", learned_rows=True)]
    shared = [Study.of("length", ["m"], task, config=config).config for config in kinds]
    assert [(each.parameterization, each.learned_rows, each.race) for each in shared] == [
        ("direct", False, False),
        ("deep", True, False),
    ]
    said = [StudyResult.of(*given(task, config), tmp_path).notes for config in shared]
    assert any(note.startswith("Every cell trained `direct`, 180 steps of 24 rows at most") for note in said[0])
    assert any(note.startswith("Every cell trained `deep` with learned rows where it can have") for note in said[1])


def given(task, config):
    grid = Grid.of("length", ["m"], task, [5], [0])
    return grid, task, {next(iter(grid)): cell()}, config, "validation"


def test_values_whose_intervals_meet_the_best_are_called_as_good(task, tmp_path):
    cells = [cell(1, 0, "0" * 100), cell(5, 0, "1" * 90 + "0" * 10), cell(20, 0, "1" * 88 + "0" * 12)]
    found = result_of(tmp_path, task, cells, seeds=(0,))
    assert found.notes[0] == "m: the highest is 5 with 90.0; as good, because their intervals meet its own: 20."
    apart = result_of(tmp_path, task, cells[:2], seeds=(0,))
    assert apart.notes[0] == "m: the highest is 5 with 90.0; no other value's interval meets its own."


def test_five_seeds_are_no_longer_called_rough(task, tmp_path):
    cells = [cell(5, seed) for seed in range(5)]
    assert "5 seeds each." in result_of(tmp_path, task, cells, seeds=range(5)).notes


def test_without_matplotlib_there_is_no_picture_and_that_is_said(task, tmp_path, monkeypatch, capsys):
    def missing(*given, **how):
        raise MissingExtraError("pictures need matplotlib")

    monkeypatch.setattr(study_result, "study_curves", missing)
    assert result_of(tmp_path, task, [cell()], seeds=(0,)).picture is None
    assert "no picture: pictures need matplotlib" in capsys.readouterr().err


def test_at_most_so_many_rows_the_same_each_time(task):
    chosen = judged_rows(task, "test", 4)
    assert len(chosen) == 4
    assert judged_rows(task, "test", 4) == chosen
    assert judged_rows(task, "test", 10) == task.splits["test"]


def test_a_damaged_cell_is_said(tmp_path):
    for text in ("{", '{"nonsense": 1}'):
        (tmp_path / "cell.json").write_text(text)
        with pytest.raises(StorageError, match=r"`.*cell.json` is damaged \(.*\); take it away, and its cell is tr"):
            Measured.read(tmp_path / "cell.json")
    assert Measured.read(tmp_path / "none.json") is None


@pytest.mark.parametrize(
    ("kind", "how", "error", "text"),
    [
        ("lenght", {}, UnknownNameError, "unknown study `lenght`; did you mean `length`"),
        ("length", {"values": [0]}, ConfigError, "option `virtual_tokens` is 0: Input should be greater than or equal"),
        ("length", {"values": [5, 5]}, ConfigError, "`5` stands twice among the values of the study; name it once"),
        ("length", {"seeds": [1, 1]}, ConfigError, "`1` stands twice among the seeds of the study; name it once"),
        ("length", {"seeds": []}, ConfigError, "the study has no seeds; give at least one"),
        ("length", {"seeds": [-1]}, ConfigError, "option `seed` is -1: Input should be greater than or equal to 0"),
        ("length", {"split": "tset"}, UnknownNameError, "unknown split `tset`; did you mean `test`?"),
        (
            "length",
            {"split": "train"},
            ConfigError,
            "a study cannot be judged on the rows of `train`: prompts lea",
        ),
        ("length", {"rows": 0}, ConfigError, "asked for 1 backbones and 0 rows; a study needs one of each"),
        ("init", {"values": ["nowhere"]}, ConfigError, "option `init` is 'nowhere': Input should be"),
        ("placement", {"values": ["middle"]}, UnknownNameError, "unknown placement `middle`; "),
        ("placement", {"values": ["infix"]}, ConfigError, "has one field, and nothing lies between; leave out infix"),
        ("size", {"values": [1]}, ConfigError, "a study of sizes has its backbones for values; name those, and no oth"),
        ("rate", {"config": TrainConfig(learning_rate=0.1)}, ConfigError, "`learning_rate` varies in a study of rate;"),
        (
            "rate",
            {"config": TrainConfig(race=True)},
            ConfigError,
            "`race` is True, and each training of a study is one",
        ),
        (
            "rate",
            {"config": TrainConfig(ensemble=2)},
            ConfigError,
            "`ensemble` is 2, and each training of a study is o",
        ),
        (
            "rate",
            {"config": TrainConfig(budget="5m")},
            ConfigError,
            "the budget is `5m`, and the trainings of a study ",
        ),
        ("rate", {"config": TrainConfig(seed=3)}, ConfigError, "`seed` varies in a study of rate; give its values to"),
    ],
)
def test_what_cannot_be_a_study(task, kind, how, error, text):
    with pytest.raises(error, match=re.escape(text)):
        Study.of(kind, ["m"], task, **how)


def test_a_split_without_rows_cannot_judge(task):
    empty = trials.replace(task, splits={**task.splits, "test": ()})
    with pytest.raises(ConfigError, match="a study cannot be judged on the rows of `test`: there are none; take valid"):
        Study.of("length", ["m"], empty, split="test")
    bare = trials.replace(task, splits={"train": task.splits["train"], "test": task.splits["test"]})
    with pytest.raises(DataError, match="the task `toy` has no validation rows to choose by"):
        Study.of("length", ["m"], bare, split="test")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "size"])
def test_every_kind_has_values_of_its_own(task, kind):
    grid = Grid.of(kind, ["a", "b"], task)
    assert len(grid) == 2 * len(grid.values) * (1 if kind == "seeds" else 3)
    assert len({each.name for each in grid}) == len(grid)
    assert study_cells.TrainConfig.model_fields.keys() >= {KINDS[kind].field or "seed"}

"""What is kept of a training says what was done: which rows, by which division, at what cost."""

import json

import pytest

from softprompt.cli.evaluate import choose_rows
from softprompt.errors import MissingExtraError
from softprompt.evaluation import sources
from softprompt.tasks.load import load_task
from softprompt.testing.toy import toy_rows
from softprompt.training.config import TrainConfig
from softprompt.training.many import train_many
from softprompt.training.planning import Parts
from softprompt.training.provenance import few_rows, fitted_on, pooled_rows
from softprompt.training.runs import RunFolder
from softprompt.training.train import train

FAST = {"steps": 3, "batch_size": 8, "virtual_tokens": 3, "probe_rows": 40}


def rows_of(count, seed=0):
    return [{**row, "text": f"{row['text']} {seed} {number}"} for number, row in enumerate(toy_rows(count, seed))]


def write(path, rows):
    path.write_text("\n".join(["text,label", *(f"{row['text']},{row['label']}" for row in rows)]) + "\n")
    return str(path)


@pytest.fixture(autouse=True)
def without_encoder(monkeypatch):
    def gone():
        raise MissingExtraError("the sentence encoder is not installed")

    monkeypatch.setattr(sources.SentenceEncoder, "packaged", gone)


@pytest.fixture
def half_given(tmp_path):
    """Train and validation as given, two of their texts in both; no test split."""
    folder = tmp_path / "given"
    folder.mkdir()
    own, known = rows_of(60), rows_of(20, 1)
    write(folder / "train.csv", own)
    write(folder / "validation.csv", [*known, *own[:2]])
    return folder


def test_validation_rows_that_were_given_are_never_learned_from(backbone, tmp_path, half_given):
    task = load_task(half_given, name="given")
    given = {row.key for row in task.splits["validation"]}
    assert (few_rows(task), fitted_on(task), len(pooled_rows(task))) == (True, "all rows but validation", 60)
    parts = Parts.of_all(task, 0)
    assert parts.validation == task.splits["validation"]
    assert len(parts.train) == 60
    result = train(backbone, task, run=tmp_path / "run", **FAST)
    report = result.report
    assert report.trained.sizes == {"train": 60, "validation": 22}
    assert (report.figures.rows, report.overlap, report.validation.rows) == (60, 2, 22)
    shown = " ".join(str(report).split())
    assert "Cross-fitted: each of the 60 rows was scored by a prompt that was trained without it." in shown
    assert "the 22 validation rows are as given: prompts were chosen by them, and none learned from them" in shown
    assert result.prompt.provenance["fitted on"] == "all rows but validation"
    for split, learned in (("validation", 2), ("test", 12), ("train", 48)):
        chosen = choose_rows(result.prompt, str(half_given), split, None)
        assert len(chosen.overlap) == learned
        assert ("the prompt has learned from these rows" in chosen.origin) == (split != "validation")
    for fold in range(1, 6):
        about = json.loads((tmp_path / "run" / f"fold-{fold}" / "run.json").read_text())
        assert about["fitted on"] == "all rows but validation"
    assert {row.key for row in parts.train} & given == {row.key for row in task.splits["validation"][-2:]}


def test_a_task_without_given_splits_is_fitted_on_all_rows_and_one_with_a_test_split_on_train():
    assert fitted_on(load_task(rows_of(40), name="few")) == "all rows"
    assert fitted_on(load_task({"train": rows_of(40), "test": rows_of(9, 1)}, name="given")) == "train"


def test_a_prompt_is_judged_on_the_rows_of_its_own_division_whatever_its_seed(backbone, tmp_path):
    source = write(tmp_path / "all.csv", rows_of(520))
    settings = {**FAST, "race": False, "report": False}
    for flags in ({}, {"shots": 5}):
        task = load_task(source, seed=4, **flags)
        assert (task.seed, task.shots) == (4, flags.get("shots"))
        result = train(backbone, task, run=tmp_path / str(len(flags)), ensemble=2, seed=7, **settings)
        for prompt in result.members:
            kept = prompt.provenance["task"]
            assert (kept["seed"], kept["shots"]) == (4, flags.get("shots"))
            chosen = choose_rows(prompt, source, "test", None)
            assert chosen.rows == task.splits["test"]
            assert "divided as in the training of this prompt" in chosen.origin


def test_a_task_that_was_not_divided_has_no_seed():
    assert load_task({split: rows_of(9, n) for n, split in enumerate(("train", "validation", "test"))}).seed is None


def test_a_bank_learns_from_train_and_says_so(backbone, tmp_path):
    task = load_task(rows_of(40), name="few")
    (fitted,) = train_many(backbone, task, [TrainConfig(**FAST)], run=tmp_path)
    assert fitted.prompt.provenance["fitted on"] == "train"
    assert fitted.spent.examples == fitted.fit.examples > 3


def test_the_cost_counts_candidates_folds_and_members(backbone, tmp_path):
    task = load_task({"train": rows_of(64), "validation": rows_of(210, 1), "test": rows_of(12, 2)}, name="race")
    result = train(backbone, task, run=tmp_path, ensemble=3, **{**FAST, "steps": 10})
    assert len({row["candidate"] for row in result.prompt.provenance["race"]}) == 4
    files = tmp_path.rglob("metrics.jsonl")
    steps = sum(event["event"] == "step" for file in files for event in RunFolder(file.parent).events())
    assert steps == 4 + 2 + 8 + 2 * 10
    cost = result.report.trained.cost
    assert cost["examples"] == steps * 8
    assert cost["training seconds"] > result.fit.seconds


def test_the_cost_counts_a_race_on_folds(backbone, tmp_path):
    rows = rows_of(540)
    task = load_task({"train": rows[:480], "validation": rows[480:520], "test": rows[520:]}, name="folds")
    result = train(backbone, task, run=tmp_path, **{**FAST, "steps": 4, "validate_every": 50})
    assert result.prompt.provenance["race"]
    steps = 3 * (4 * 1 + 2 * 1) + 4
    assert 7 * steps <= result.report.trained.cost["examples"] <= 8 * steps  # batches of 8, or of one row less

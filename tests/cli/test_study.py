"""`softprompt study`: a plan, a run, a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from softprompt.experiments import trials

SHORT = ["--steps", 2, "--validate-every", 2, "--batch-size", 4, "--values", "1,3", "--seeds", "0"]


def test_it_plans_then_trains_then_prints(ok, folder):
    words = ["study", "length", folder, "--folder", "lengths", *SHORT]
    plan = ok(*words, "--plan")
    assert "to do  gemma-3-270m  virtual tokens 1  seed 0\n" in plan
    assert not Path("lengths").exists()
    shown = ok(*words)
    assert shown.startswith("virtual tokens  ")
    assert "Accuracy on 8 validation rows of reviews" in shown
    assert shown.endswith("tables: lengths/study.md; picture: lengths/study.png\n")
    assert "done   gemma-3-270m  virtual tokens 3  seed 0\n" in ok(*words, "--plan")
    assert json.loads(ok(*words, "--plan", "--json"))["cells"][0]["done"]


def test_json_on_test_rows_of_two_backbones(ok, folder, home):
    told = json.loads(
        ok("study", "size", folder, "--backbone", "gemma-3-270m", "--backbone", "org/other", "--split", "test",
           "--virtual-tokens", 2, "--json", "--prompts-only", *SHORT[:6], "--seeds", "1")
    )  # fmt: skip
    assert [point["value"] for point in told["points"]] == ["gemma-3-270m", "org/other"]
    assert any("10 test rows" in note for note in told["notes"])
    assert Path(told["folder"]).parent == home / "runs"


def test_full_fine_tuning_is_planned_beside_the_prompts_of_a_study_of_sizes(ok, folder):
    words = ["study", "size", folder, "--seeds", "0", "--plan"]
    assert "to do  gemma-3-270m  full  seed 0\n" in ok(*words)
    assert "  full  " not in ok(*words, "--prompts-only")
    assert "to do  gemma-3-270m  lora  seed 0\n" in ok(*words, "--beside", "lora")


def test_an_interruption_says_how_to_go_on(call, folder, monkeypatch):
    def stopped(*given, **how):
        raise KeyboardInterrupt

    monkeypatch.setattr(trials, "train", stopped)
    result = call("study", "length", folder, *SHORT)
    assert result.exit_code == 130
    assert result.stderr.endswith("the same command goes on from there\ninterrupted\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["lenght"], "error: unknown study `lenght`; did you mean `length`"),
        (["length", "--seed", "1"], "error: `seed` varies in a study of length"),
        (["length", "--values", "{"], "error: `{` cannot be read as values with commas between them"),
    ],
)
def test_what_cannot_be_studied(call, folder, words, text):
    result = call("study", words[0], folder, *words[1:])
    assert result.exit_code == 2
    assert text in result.stderr


def test_help_shows_an_example(ok):
    assert "Example: softprompt study" in " ".join(ok("study", "--help").split())


def test_settings_that_would_do_nothing_here_have_no_flag(ok):
    shown = ok("study", "--help")
    for name in ("race", "extend", "ensemble", "budget", "report", "test-rows", "probe-rows", "abstain-accuracy"):
        assert f"--{name}" not in shown
    assert "--steps " in shown


def test_what_a_task_is_can_be_said(ok, call):
    rows = "".join(f"film {i},{'warm|dull' if i % 3 else 'dull'}\n" for i in range(40))
    Path("moods.csv").write_text(f"text,labels\n{rows}")
    result = call("study", "length", "moods.csv", "--kind", "multi-label", "--plan", *SHORT)
    assert "moods: multi-label, 2 labels" in result.stderr
    assert "to do  gemma-3-270m  virtual tokens 1" in result.stdout
    result = call("study", "length", "moods.csv", "--kind", "multi-label", "--bounds", "0,5", "--plan", *SHORT)
    assert "error: `bounds` was given, and the task is multi-label" in result.stderr

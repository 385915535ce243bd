"""`softprompt sweep`: parse, one call, a table."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml

from softprompt.experiments import sweep as sweeping
from softprompt.experiments import trials

pytest.importorskip("optuna", reason="sweeps need the `search` extra")

SHORT = ["--steps", 2, "--validate-every", 2, "--batch-size", 4, "--trials", 2]
SEARCH = ["--search", "learning-rate=log:0.003:0.1", "--search", "virtual_tokens=int:1:4"]


def test_it_prints_a_table_and_settings_that_train_takes(ok, call, folder):
    shown = ok("sweep", folder, "--folder", "found", *SEARCH, *SHORT)
    assert shown.startswith("trial    loss  accuracy  learning_rate  virtual_tokens\n")
    assert "best settings: found/best.yaml; picture: found/sweep.png" in shown
    assert shown.endswith(f"try: softprompt train {folder} --config found/best.yaml\n")
    best = yaml.safe_load(Path("found/best.yaml").read_text())
    result = call("train", folder, "--config", "found/best.yaml", "--no-report", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["prompt"]["virtual_tokens"] == best["virtual_tokens"]


def test_what_it_says_to_type_next_repeats_what_the_task_was(ok, tmp_path, csv_of):
    rows = tmp_path / "my reviews.csv"
    rows.write_text(csv_of(40))
    flags = ["--text", "review", "--label", "sentiment", "--words", "pos=so good", "--template", r"{soft}{review}\nIs"]
    shown = ok("sweep", rows, "--folder", "found", *flags, *SEARCH, *SHORT, "--backbone", "org/other")
    line = shown.splitlines()[-1].removeprefix("try: ")
    words = shlex.split(line)
    assert words[:5] == ["softprompt", "train", str(rows), "--config", "found/best.yaml"]
    assert words[5:] == [
        "--text", "review", "--label", "sentiment", "--template", r"{soft}{review}\nIs", "--words", "pos=so good",
        "--backbone", "org/other",
    ]  # fmt: skip
    assert json.loads(ok(*words[1:], "--no-report", "--json"))["prompt"]["virtual_tokens"] >= 1


def test_json_and_a_file_of_the_space(ok, folder, home):
    Path("space.yaml").write_text("init: [text, random]\n")
    told = json.loads(ok("sweep", folder, "--space", "space.yaml", "--json", "--virtual-tokens", 2, *SHORT))
    assert [trial["number"] for trial in told["trials"]] == [0, 1]
    assert told["settings"]["virtual_tokens"] == 2
    assert Path(told["folder"]).parent == home / "runs"


def test_an_interruption_says_how_to_go_on(call, folder, monkeypatch):
    def stopped(*given, **how):
        raise KeyboardInterrupt

    monkeypatch.setattr(trials, "train", stopped)
    result = call("sweep", folder, "--folder", "cut", *SEARCH, *SHORT)
    assert result.exit_code == 130
    assert result.stderr.endswith("the same command goes on from there\ninterrupted\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--search", "stepz=1,2"], "error: unknown option `stepz`; did you mean `steps`"),
        (["--search", "steps"], "error: --search is `steps`; write it as learning_rate=log:0.003:0.1"),
        (["--space", "none.yaml"], "error: cannot read the search space in `none.yaml`"),
        (["--steps", "0"], "error: option `steps` is 0"),
    ],
)
def test_what_cannot_be_searched_is_said_before_anything_is_loaded(call, folder, words, text):
    result = call("sweep", folder, *words)
    assert (result.exit_code, result.stderr[: len(text)]) == (2, text)


def test_without_optuna_it_says_what_to_install(call, folder, monkeypatch):
    monkeypatch.setattr(sweeping, "find_spec", lambda name: None)
    result = call("sweep", folder)
    assert (result.exit_code, result.stderr) == (
        2, 'error: a sweep needs optuna, which is not installed: pip install "softprompt[search]"\n'
    )  # fmt: skip


def test_help_shows_an_example(ok):
    assert "Example: softprompt sweep" in " ".join(ok("sweep", "--help").split())


def test_settings_that_would_do_nothing_here_have_no_flag(ok):
    shown = ok("sweep", "--help")
    for name in ("race", "extend", "ensemble", "report", "test-rows", "probe-rows", "abstain-accuracy"):
        assert f"--{name}" not in shown
    assert "--budget " in shown

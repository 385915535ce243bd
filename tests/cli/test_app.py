"""The command itself: version, help, nearest names, and what an error looks like."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import typer

from softprompt import __version__
from softprompt.cli.app import main
from softprompt.errors import DataError

VERBS = ["train", "eval", "compare", "estimate", "run", "sweep", "study", "demo"]


def shell(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "softprompt", *words]
    known = {**os.environ, "COLUMNS": "120", "TERM": "dumb", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=known, timeout=60, check=False)


def test_version(ok):
    assert ok("--version") == f"softprompt {__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_shows_an_example(ok, verb):
    assert f"Example: softprompt {verb}" in " ".join(ok(verb, "--help").split())


def test_help_lists_the_verbs_and_the_groups(ok):
    shown = ok("--help")
    for name in (*VERBS, "prompts", "tasks", "backbones", "recipes"):
        assert f" {name} " in shown


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'?"),
        (["train", "x.csv", "--step", "3"], "No such option: --step"),
        (["train", "x.csv", "--step", "3"], "--steps"),
        (["prompts", "lits"], "Did you mean 'list'?"),
    ],
)
def test_unknown_verbs_and_options_end_in_two_with_the_nearest(call, words, text):
    result = call(*words)
    assert result.exit_code == 2
    assert text in result.stderr


def test_an_error_of_ours_is_one_line_and_exit_code_two():
    done = shell("tasks", "show", "nowhere.csv")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no file `nowhere.csv`; ")
    assert done.stderr.count("\n") == 1


def test_debug_shows_where_it_came_from():
    done = shell("tasks", "show", "nowhere.csv", SOFTPROMPT_DEBUG="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def raising(error):
    def verb(*_, **__):
        raise error

    return verb


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DataError("two\nlines"), 2, "error: two lines\n"),
        (PermissionError(13, "Permission denied", "x.csv"), 2, "error: [Errno 13] Permission denied: 'x.csv'\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            ZeroDivisionError("by zero"),
            1,
            "error: ZeroDivisionError: by zero; this should not happen: please report it",
        ),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
        (typer.Exit(3), 3, ""),
    ],
)
def test_what_is_raised_becomes_a_line_and_a_code(call, monkeypatch, error, code, text):
    monkeypatch.setattr("softprompt.tasks.sources.catalog.catalog", raising(error))
    result = call("tasks", "list")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(text) if text else not result.stderr


def test_main_is_what_the_package_installs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["softprompt", "--version"])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0
    assert capsys.readouterr().out == f"softprompt {__version__}\n"


def test_a_reader_that_goes_away_is_no_error():
    line = f"{sys.executable} -m softprompt train --help | head -c 1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""

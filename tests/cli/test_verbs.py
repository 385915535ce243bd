"""Verbs are loaded when they are typed: the help shows them all from a table that says what they say of themselves."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from softprompt.cli.app import VERBS

COMPLETE = {"_SOFTPROMPT_COMPLETE": "complete_bash"}
LOADED = """
import sys
from softprompt.cli.app import main
try:
    main()
except SystemExit:
    pass
print(*sorted(m for m in sys.modules if m.startswith("softprompt.cli.")), file=sys.stderr)
"""


@pytest.mark.parametrize("name", VERBS)
def test_the_table_says_what_a_verb_says_of_itself(name):
    own = VERBS[name].load(name)
    assert own.name == name
    assert VERBS[name].help == " ".join(own.help.split("\n\n")[0].split())


def spoken(*words: str, **environment: str) -> tuple[str, set[str]]:
    """What a command prints, and the modules of the command line that it has loaded."""
    command = [sys.executable, "-c", LOADED, *words]
    known = {**os.environ, "COLUMNS": "200", "TERM": "dumb", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=known, timeout=60, check=True)
    return done.stdout, set(done.stderr.splitlines()[-1].split())


NOTHING = {"softprompt.cli.app", "softprompt.cli.verbs"}


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["trian"], []])
def test_nothing_is_loaded_where_no_verb_is_meant(words):
    assert spoken(*words)[1] == NOTHING


def test_a_verb_loads_itself_and_no_other():
    shown, loaded = spoken("tasks", "show", "--help")
    assert "Example: softprompt tasks show" in shown
    assert loaded >= NOTHING | {"softprompt.cli.tasks"}
    assert not {"softprompt.cli.train", "softprompt.cli.demo"} & loaded


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_a_verb_knows_both_ways_to_ask_for_help(ok, flag):
    assert "recipes show [OPTIONS]" in ok("recipes", "show", flag)


@pytest.mark.parametrize(
    ("typed", "number", "offered"),
    [
        ("softprompt st", 1, {"study"}),
        ("softprompt prompts re", 2, {"remove", "reindex"}),
        ("softprompt tasks show --sh", 3, {"--shots"}),
        ("softprompt train --batch-", 2, {"--batch-size", "--batch-tokens"}),
    ],
)
def test_the_shell_completes_verbs_and_what_belongs_to_them(typed, number, offered):
    shown, loaded = spoken(COMP_WORDS=typed, COMP_CWORD=str(number), **COMPLETE)
    assert set(shown.split()) == offered
    if number == 1:
        assert loaded == NOTHING

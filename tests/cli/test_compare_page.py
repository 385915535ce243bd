"""The page on comparing: its commands parse, its flags and methods exist, its figures are the code's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from softprompt.cli.app import VERBS
from softprompt.experiments.compare import plan as comparison_plan
from softprompt.experiments.compare import rows as comparison_rows
from softprompt.experiments.compare import setup as comparison_setup
from softprompt.methods import catalogue, forgetting, measuring, tuning
from softprompt.methods.few_shot import MOST

PAGE = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for kind, text in re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)
    for line in text.splitlines()
    if kind == "bash" and line.startswith("softprompt ")
]
VERB = VERBS["compare"].load("compare")


@pytest.mark.parametrize("line", COMMANDS)
def test_its_commands_are_commands_of_ours(line):
    words = shlex.split(line)
    assert words[1] == "compare"
    VERB.make_context("compare", words[2:])


def test_its_flags_are_flags():
    known = {option for parameter in VERB.params for option in parameter.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", PAGE))
    assert named - known == set()
    assert {"--plan", "--quick", "--out", "--budget", "--executor", "--report-only"} <= named


def test_its_table_has_every_method_once_and_no_other():
    table = PAGE.partition("| method | what it is")[2].partition("\n\n")[0]
    named = [name for line in table.splitlines()[2:] for name in re.findall(r"`([\w-]+)`", line.split("|")[1])]
    assert sorted(named) == sorted(catalogue.names())


def test_its_main_methods_are_the_main_ones():
    line = next(line for line in PAGE.splitlines() if line.startswith("| main |"))
    titles = {
        "soft prompt with words and with learned rows": ("soft-prompt:words", "soft-prompt:rows"),
        "deep prompt": ("deep-prompt:rows",), "PEFT prompt tuning with our settings": ("peft-prompt-tuning",),
        "LoRA": ("lora:rows",), "Houlsby adapters": ("houlsby:rows",), "full fine-tuning": ("full:rows",),
        "both linear probes": ("probe-hidden", "probe-sentence"),
    }  # fmt: skip
    assert all(title in line for title in titles)
    assert sorted(name for names in titles.values() for name in names) == sorted(comparison_plan.MAIN)


def test_its_numbers_are_the_defaults():
    assert "seeds 0, 1 and 2" in PAGE
    assert comparison_plan.SEEDS == (0, 1, 2)
    assert "0.3, 1 and 3 times" in PAGE
    assert comparison_plan.RATES == (0.3, 1.0, 3.0)
    assert "for a third of their length before any extension" in PAGE
    assert comparison_plan.SEARCH_SHARE == 1 / 3
    assert "on 16, 64 and 256 training rows" in PAGE
    assert comparison_plan.DATA_ROWS == (16, 64, 256)
    assert "`--rows` (2,000)" in PAGE
    assert comparison_setup.ROWS == comparison_rows.TEST_ROWS == 2000
    assert "after three looks" in PAGE
    assert "after two more" in PAGE
    assert (tuning.PATIENCE, tuning.SECOND_PATIENCE, tuning.EPOCHS) == (3, 2, 20)
    assert "batches of 64 rows of one task" in PAGE
    assert (measuring.BATCH, measuring.TASKS, measuring.ALONE, forgetting.WINDOW, MOST) == (64, 10, 15, 512, 64)
    assert "seven methods, one seed" in PAGE
    assert (len(comparison_plan.QUICK), len(comparison_plan.QUICK_SEEDS)) == (7, 1)


def test_it_names_no_place_of_one_machine():
    assert not re.findall(r"(?<![\w.:/])/(?:home|root|work|tmp|Users)\b", PAGE)

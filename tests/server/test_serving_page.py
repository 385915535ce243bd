"""The page on serving: its commands parse, its bodies are requests, its defaults are the settings', its names exist."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path

import pytest

from softprompt.cli.app import VERBS
from softprompt.server import health, prompts
from softprompt.server.metrics import Metrics
from softprompt.server.schema import ChatForm, ClassifyForm, CompletionForm
from softprompt.server.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [
    line for kind, text in BLOCKS if kind == "bash" for line in text.replace("\\\n", " ").splitlines() if line.strip()
]
FORMS = {"/v1/classify": ClassifyForm, "/v1/chat/completions": ChatForm, "/v1/completions": CompletionForm}


def words_of(program):
    return [words[1:] for words in map(shlex.split, COMMANDS) if words[0] == program]


@pytest.mark.parametrize("words", words_of("softprompt"), ids=" ".join)
def test_its_commands_are_commands_of_ours(words):
    command, rest = VERBS[words[0]].load(words[0]), words[1:]
    while hasattr(command, "commands"):
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context(words[0], rest)


@pytest.mark.parametrize("words", words_of("curl"), ids=lambda words: words[-1][:40])
def test_its_requests_are_requests(words):
    (url,) = (word for word in words if word.startswith("http"))
    path = url.removeprefix("http://127.0.0.1:8000")
    if "-d" in words:
        FORMS[path].model_validate(json.loads(words[words.index("-d") + 1])).check()
    else:
        assert words[words.index("-X") + 1] == "PUT"
        assert path.startswith(f"{prompts.PATH}/")


def test_its_python_is_python():
    assert [ast.parse(text) for kind, text in BLOCKS if kind == "python"]


def test_its_defaults_are_the_settings():
    units = {"": 1, "s": 1, "MiB": 2**20, "GiB": 2**30}
    told = re.findall(r"\| `--([\w-]+)` \| (\d+) ?(\w*) \|", PAGE)
    assert len(told) >= 10
    for flag, number, unit in told:
        assert getattr(Settings(), flag.replace("-", "_")) == int(number) * units[unit], flag


def test_its_metrics_are_measured():
    measured = Metrics("tiny").text().decode()
    named = set(re.findall(r"`(vllm:\w+)`", PAGE))
    table = PAGE.partition("Our own begin with")[2].partition("`model_name`")[0]
    named |= {f"softprompt:{name}" for name in re.findall(r"`([a-z_]+)`", table)}
    assert len(named) > 15
    for name in named:
        assert name.removesuffix("_total") in measured, name


def test_its_paths_are_paths():
    known = {re.sub(r"\{\w+\}", "*", route.path) for route in (*health.router.routes, *prompts.router.routes)}
    for path in re.findall(r"`(?:GET|PUT|POST|DELETE|`PUT` or `DELETE)[^`]* (/v1/prompts[^`?]*)", PAGE):
        assert re.sub(r"(?<=prompts/)[^/]+|(?<=tags/)[^/]+", "*", path) in known, path
    assert {"/healthz", "/readyz"} <= known


def test_its_table_of_flags_is_a_subset_of_the_flags():
    for flag in set(re.findall(r"`--([a-z-]+)[` ]", PAGE)) - {"build-arg"}:
        names = {option for verb in ("serve", "keys") for option in options_of(verb)}
        assert f"--{flag}" in names, flag


def options_of(verb):
    command = VERBS[verb].load(verb)
    for each in getattr(command, "commands", {"": command}).values():
        for parameter in each.params:
            yield from parameter.opts

"""The task that a verb learns: the flags that name it, and the one call that reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from softprompt.errors import ConfigError
from softprompt.progress import say

if TYPE_CHECKING:
    from softprompt.tasks.task import Task

SOURCE = typer.Argument(help="A packaged data set, a file, a folder with split files, or a hub id.")
CONFIG = typer.Option(None, help="YAML file of the settings that all trainings share; flags come on top.")
TASK: Mapping[str, tuple[Any, Any]] = {
    "text": (list[str] | None, typer.Option(None, help="Text column; repeat for several. Default: guessed.")),
    "label": (str | None, typer.Option(None, help="Label column. Default: guessed.")),
    "template": (str | None, typer.Option(None, help="Pattern of a row, as '{bos}{soft}Text: {text} Label:'.")),
    "words": (list[str] | None, typer.Option(None, metavar="LABEL=WORD", help="Words for a label; repeat.")),
    "scoring": (str, typer.Option("trie", help="How label words are scored: trie or full.")),
    "shots": (int | None, typer.Option(None, help="Train on this many texts of each label.")),
    "max_tokens": (int | None, typer.Option(None, help="Longest row in tokens. Default: the backbone's.")),
}
"""The flags of every verb that trains, by the names that `load_task` has for them."""


def told_apart(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the flags of the task, and the settings, of what a verb was given.

    >>> task, settings = told_apart({**dict.fromkeys(TASK), "steps": 3})
    >>> list(task) == list(TASK), settings
    (True, {'steps': 3})
    """
    return {name: given[name] for name in TASK}, {name: each for name, each in given.items() if name not in TASK}


def open_task(source: str, flags: Mapping[str, Any], **more: Any) -> Task:
    """Read the task that a verb learns and say what it is.

    Args:
        source: where its rows are.
        flags: those of `TASK`.
        more: other arguments of `load_task`.

    Raises:
        ConfigError: one of the words has no `=`; and all that `load_task` raises.
    """
    from softprompt.tasks.load import load_task

    task = load_task(source, **load_options(flags), **more)
    say(task.describe())
    return task


def load_options(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `load_task` that the flags of `TASK` stand for.

    Raises:
        ConfigError: one of the words has no `=`.
    """
    return {**flags, "text": flags["text"] or None, "words": pairs("words", flags["words"])}


def pairs(option: str, given: list[str] | None) -> dict[str, str]:
    """Read `name=value` as often as it was given.

    Raises:
        ConfigError: one of them has no `=`, or no name in front of it.

    >>> pairs("words", ["pos=good", "neg=not good"])
    {'pos': 'good', 'neg': 'not good'}
    """
    found = {}
    for pair in given or ():
        name, sign, value = pair.partition("=")
        if not sign or not name.strip():
            raise ConfigError(f"--{option} is `{pair}`; write it as name=value")
        found[name.strip()] = value
    return found

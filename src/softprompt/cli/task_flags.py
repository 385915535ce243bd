"""The task that a verb learns: the flags that name it, and the one call that reads it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from softprompt.cli.opening import DEFAULT_BACKBONE
from softprompt.errors import ConfigError
from softprompt.progress import say

if TYPE_CHECKING:
    from softprompt.tasks.task import Task

SOURCE = typer.Argument(help="A packaged data set, a file, a folder with split files, or a hub id.")
CONFIG = typer.Option(None, help="YAML file of the settings that all trainings share; flags come on top.")
KIND = (
    "What the answers are: classification, multi-label, choice, regression, generation, extraction, tagging or chat. "
    "Default: told from the columns."
)
PATTERN = "Pattern of a row, as '{bos}{soft}Text: {text} Label:'; \\n is a line end, \\t a tab, \\\\ one backslash."
TASK: Mapping[str, tuple[Any, Any]] = {
    "kind": (str | None, typer.Option(None, help=KIND)),
    "text": (list[str] | None, typer.Option(None, help="Text column; repeat for several. Default: guessed.")),
    "label": (str | None, typer.Option(None, help="Label column. Default: guessed.")),
    "template": (str | None, typer.Option(None, help=PATTERN)),
    "words": (list[str] | None, typer.Option(None, metavar="LABEL=WORD", help="Words for a label; repeat.")),
    "scoring": (str, typer.Option("trie", help="How label words are scored: trie or full.")),
    "bounds": (str | None, typer.Option(None, metavar="LOW,HIGH", help="Regression: what numbers lie between.")),
    "max_new_tokens": (int | None, typer.Option(None, help="Text: tokens of an answer at most.")),
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
        ConfigError: one of the words has no `=`, or the bounds are not two numbers; and all that `load_task` raises.
    """
    from softprompt.tasks.load import load_task

    task = load_task(source, **load_options(flags), **more)
    say(task.describe())
    return task


def load_options(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `load_task` that the flags of `TASK` stand for.

    Raises:
        ConfigError: one of the words has no `=`, or the bounds are not two numbers.
    """
    template = flags["template"]
    return {
        **flags,
        "text": flags["text"] or None,
        "template": None if template is None else pattern(template),
        "words": pairs("words", flags["words"]),
        "bounds": _bounds(flags["bounds"]),
    }


def again(flags: Mapping[str, Any], backbone: str = DEFAULT_BACKBONE) -> list[str]:
    """Return the words of a command that give the same flags of `TASK`, and the same backbone, once more.

    >>> again({**dict.fromkeys(TASK), "text": ["title", "review"], "scoring": "trie"}, "org/own")
    ['--text', 'title', '--text', 'review', '--backbone', 'org/own']
    """
    said = {**{name: flags[name] for name in TASK}, "backbone": backbone}
    usual = {**{name: option.default for name, (_, option) in TASK.items()}, "backbone": DEFAULT_BACKBONE}
    given = {name: value for name, value in said.items() if value not in (None, [], usual[name])}
    return [
        word
        for name, value in given.items()
        for each in (value if isinstance(value, list) else [value])
        for word in (f"--{name.replace('_', '-')}", str(each))
    ]


def command(*words: object) -> str:
    """Return a command as a line that can be pasted: words with spaces and signs are quoted.

    >>> print(command("softprompt", "train", "my file.csv"))
    softprompt train 'my file.csv'
    """
    return shlex.join(map(str, words))


def pattern(typed: str) -> str:
    r"""Return a template as it was meant: a command line has no line ends, so that they are written as we print them.

    >>> pattern(r"{soft}Review: {review}\nSentiment:") == "{soft}Review: {review}\nSentiment:"
    True
    """
    return re.sub(r"\\([nt\\])", lambda found: _SIGNS[found[1]], typed)


_SIGNS = {"n": "\n", "t": "\t", "\\": "\\"}


def _bounds(text: str | None) -> tuple[float, float] | None:
    """Read two numbers with a comma between them."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--bounds is `{text}`; write two numbers with a comma between them, as 0,5") from error
    return low, high


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

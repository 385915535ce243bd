"""The task that an experiment learns: the flags that name it, and the one call that reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from softprompt.cli.train import pairs
from softprompt.progress import say

if TYPE_CHECKING:
    from softprompt.tasks.task import Task

SOURCE = typer.Argument(help="A packaged data set, a file, a folder with split files, or a hub id.")
TEXT = typer.Option(None, help="Text column; repeat for several. Default: guessed.")
LABEL = typer.Option(None, help="Label column. Default: guessed.")
TEMPLATE = typer.Option(None, help="Pattern of a row, as '{bos}{soft}Text: {text} Label:'.")
WORDS = typer.Option(None, metavar="LABEL=WORD", help="Words for a label; repeat.")
SCORING = typer.Option("trie", help="How label words are scored: trie or full.")
SHOTS = typer.Option(None, help="Train on this many texts of each label.")
MAX_TOKENS = typer.Option(None, help="Longest row in tokens. Default: the backbone's.")
CONFIG = typer.Option(None, help="YAML file of the settings that all trainings share; flags come on top.")


def open_task(source: str, words: list[str] | None, **named: Any) -> Task:
    """Read the task of an experiment and say what it is.

    Args:
        source: where its rows are.
        words: `label=word`, as often as it was given.
        named: the other arguments of `load_task`.

    Raises:
        ConfigError: one of `words` has no `=`; and all that `load_task` raises.
    """
    from softprompt.tasks.load import load_task

    task = load_task(source, words=pairs("words", words), **named)
    say(task.describe())
    return task

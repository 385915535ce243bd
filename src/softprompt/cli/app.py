"""The `softprompt` command itself: its verbs, and what a user sees when something goes wrong."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.exceptions import TyperException

from softprompt import __version__
from softprompt.cli.verbs import Verb, Verbs
from softprompt.errors import SoftPromptError
from softprompt.progress import say

DEBUG = "SOFTPROMPT_DEBUG"
"""Set to 1, an error shows where in the code it came from."""
BAD_INPUT, FAULT, INTERRUPTED = 2, 1, 130


VERBS = {
    "train": Verb(
        "softprompt.cli.train:train",
        "Teach a frozen backbone a task: learn a soft prompt, and say honestly how good it is.",
    ),
    "eval": Verb(
        "softprompt.cli.evaluate:evaluate",
        "Score labelled rows with a prompt; the result is also kept beside the prompt, if the store has it.",
    ),
    "run": Verb(
        "softprompt.cli.run:run",
        "Answer a text, standard input or a file, with every prompt that is named, all in the same batches.",
    ),
    "sweep": Verb(
        "softprompt.cli.sweep:sweep",
        "Search for settings with a low validation loss; the same command goes on, and may run several times at once.",
    ),
    "study": Verb(
        "softprompt.cli.study:study",
        "Train one setting at several values and seeds, and draw the result with its intervals; the same command goes "
        "on.",
    ),
    "compare": Verb(
        "softprompt.cli.compare:compare",
        "Compare soft prompts with LoRA, adapters, full fine-tuning, probes and text prompts; the same command goes "
        "on.",
    ),
    "estimate": Verb(
        "softprompt.cli.estimate:estimate",
        "Say what prompts and their rivals take on a model of any size: bytes, memory, time; no weights are read.",
    ),
    "demo": Verb(
        "softprompt.cli.demo:demo",
        "Teach a frozen Gemma tweet sentiment and SMS spam, see how good each prompt is, and run both in one batch.",
    ),
    "serve": Verb(
        "softprompt.cli.serve:serve",
        "Serve every prompt of the store behind one OpenAI-compatible API; prompts that land there are served at once.",
    ),
    "prompts": Verb("softprompt.cli.prompts:app", "Keep, look at, compare, tag, ship and tidy prompts."),
    "keys": Verb("softprompt.cli.keys:app", "Who may call a server, which prompts, and how much."),
    "tasks": Verb("softprompt.cli.tasks:app", "Data sets and files as tasks."),
    "backbones": Verb("softprompt.cli.backbones:app", "The frozen models that prompts are trained on."),
    "recipes": Verb("softprompt.cli.recipes:app", "Settings of papers, in our terms and with their sources."),
}
"""Every verb and group: where it lives, and its line in the help; the module is loaded once the verb is typed."""


class Main(Verbs):
    """The group of all verbs; an error in one of them is one line and an exit code."""

    verbs = VERBS

    def invoke(self, ctx: Any) -> Any:
        """Run a verb; what it raises on purpose is said in one line."""
        with _said():
            return super().invoke(ctx)


app = typer.Typer(
    cls=Main,
    help="Teach a frozen language model a task in minutes, and keep it as a file of a few kilobytes.",
    epilog="Example: softprompt train reviews.csv --text review --label sentiment --save sentiment",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"softprompt {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Teach a frozen language model a task in minutes, and keep it as a file of a few kilobytes."""


def main() -> None:
    """Run the `softprompt` command; exit code 2 is bad input, 130 an interruption, 1 a fault of ours."""
    try:
        app(prog_name="softprompt")
    except SystemExit as end:
        if os.environ.get("WORLD_SIZE", "1") != "1":
            _part(end.code if isinstance(end.code, int) else 0)
        raise


def _part(code: int) -> None:
    """End one of several processes at once: torch's own threads now and then abort an orderly end, its work done."""
    from softprompt.backbones.processes import leave

    if code == 0:  # else the launcher stops the others
        leave()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def _said() -> Iterator[None]:
    """Turn what a verb raises into one line on standard error and an exit code."""
    try:
        yield
        sys.stdout.flush()  # here, where a reader that went away is noticed, and not while the interpreter ends
    except (typer.Exit, typer.Abort, TyperException):
        raise
    except KeyboardInterrupt as stop:
        say("interrupted")
        raise typer.Exit(INTERRUPTED) from stop
    except Exception as error:
        if os.environ.get(DEBUG) == "1" or _reader_left(error):
            raise
        foreseen = isinstance(error, SoftPromptError | OSError)
        say(f"error: {_one_line(error)}" if foreseen else _fault(error), everyone=True)
        raise typer.Exit(BAD_INPUT if foreseen else FAULT) from error


def _reader_left(error: Exception) -> bool:
    """Tell whether the reader of our output went away, as `head` does: Typer then ends without a word."""
    return isinstance(error, OSError) and error.errno == errno.EPIPE


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _fault(error: Exception) -> str:
    return (
        f"error: {type(error).__name__}: {_one_line(error)}; this should not happen: "
        f"please report it with what {DEBUG}=1 shows"
    )

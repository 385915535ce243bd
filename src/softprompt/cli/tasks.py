"""`softprompt tasks`: what there is to learn from, and what a source looks like as a task."""

from __future__ import annotations

import json
from typing import Any

import typer

from softprompt.cli.opening import AS_JSON
from softprompt.cli.settings import NoSettings, with_settings
from softprompt.cli.task_flags import SOURCE, TASK, load_options

app = typer.Typer(help="Data sets and files as tasks.", no_args_is_help=True)


@app.command("list")
def list_() -> None:
    """List the packaged data sets and the kinds of source.

    Example: softprompt tasks list
    """
    from softprompt.tasks.sources.catalog import catalog

    print(catalog())


@app.command()
@with_settings(NoSettings, TASK)
def show(
    source: str = SOURCE,
    seed: int = typer.Option(0, help="Decides every draw."),
    as_json: bool = AS_JSON,
    **flags: Any,
) -> None:
    """Show a source as a task: splits, labels, template, and what there is to know about its rows.

    Example: softprompt tasks show reviews.csv --text review --label sentiment
    """
    from softprompt.tasks.load import load_task

    task = load_task(source, **load_options(flags), seed=seed)
    print(json.dumps(task.summary(), ensure_ascii=False, indent=2) if as_json else task.describe())

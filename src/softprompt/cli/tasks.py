"""`softprompt tasks`: what there is to learn from, and what a source looks like as a task."""

from __future__ import annotations

import json

import typer

app = typer.Typer(help="Data sets and files as tasks.", no_args_is_help=True)


@app.command("list")
def list_() -> None:
    """List the packaged data sets and the kinds of source.

    Example: softprompt tasks list
    """
    from softprompt.tasks.sources.catalog import catalog

    print(catalog())


@app.command()
def show(
    source: str = typer.Argument(help="A packaged data set, a file, a folder with split files, or a hub id."),
    text: list[str] | None = typer.Option(None, help="Text column; repeat for several. Default: guessed."),
    label: str | None = typer.Option(None, help="Label column. Default: guessed."),
    template: str | None = typer.Option(None, help="Pattern of a row, as '{bos}{soft}Text: {text} Label:'."),
    shots: int | None = typer.Option(None, help="Train on this many texts of each label."),
    seed: int = typer.Option(0, help="Decides every draw."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Show a source as a task: splits, labels, template, and what there is to know about its rows.

    Example: softprompt tasks show reviews.csv --text review --label sentiment
    """
    from softprompt.tasks.load import load_task

    task = load_task(source, text=text or None, label=label, template=template, shots=shots, seed=seed)
    print(json.dumps(task.summary(), ensure_ascii=False, indent=2) if as_json else task.describe())

"""`softprompt compare`: soft prompts beside everything a user might pick instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from softprompt.cli.opening import AS_JSON, DEFAULT_BACKBONE, DEVICE, DTYPE
from softprompt.cli.output import print_json
from softprompt.cli.settings import NoSettings, with_settings
from softprompt.cli.task_flags import TASK, load_options
from softprompt.errors import ConfigError, MissingExtraError
from softprompt.progress import say

if TYPE_CHECKING:
    from softprompt.experiments.report.report import ReportPaths

SOURCES = typer.Argument(None, help="A packaged data set, a file or a folder with split files; each is a task.")


@with_settings(NoSettings, TASK)
def compare(
    sources: list[str] | None = SOURCES,
    methods: str | None = typer.Option(
        None, help="Methods, with commas: soft-prompt,lora:words,full. Default: eight families; the others in part."
    ),
    seeds: str | None = typer.Option(None, help="Seeds, with commas. Default: 0,1,2."),
    rates: str | None = typer.Option(
        None, help="Rates to search, as multiples of each method's own, with commas. Default: 0.3,1,3."
    ),
    rows: int | None = typer.Option(None, min=1, help="Training rows at most, drawn by seed. Default: 2000."),
    data_rows: str | None = typer.Option(
        None, help="Training rows of the cells that show what few are enough for; none: 0. Default: 16,64,256."
    ),
    minutes: float | None = typer.Option(None, min=0.01, help="Longest training. Default: until validation stops."),
    quick: bool = typer.Option(False, "--quick", help="Seven methods, one seed, one rate, short trainings."),
    plan: bool = typer.Option(False, "--plan", help="Only say which cells it takes, and how many hours."),
    out: Path | None = typer.Option(None, help="Where the comparison lives. Default: under the home."),
    executor: str = typer.Option("local", help="Where cells run: local or ray."),
    jobs: int = typer.Option(1, min=1, help="Cells that run at once."),
    budget: str | None = typer.Option(None, help="Begin no cell after so long, as 8h or 30m."),
    report_only: bool = typer.Option(False, "--report-only", help="Run nothing; write the report of what is in --out."),
    backbone: str = typer.Option(DEFAULT_BACKBONE, help="A packaged name, hub id, folder or .gguf file."),
    device: str | None = DEVICE,
    dtype: str | None = DTYPE,
    as_json: bool = AS_JSON,
    **flags: Any,
) -> None:
    """Compare soft prompts with LoRA, adapters, full fine-tuning, probes and text prompts; the same command goes on.

    Example: softprompt compare reviews.csv --text review --label sentiment --quick
    """
    if report_only:
        _report(_there(out), as_json=as_json)
        return
    seconds = None if budget is None else seconds_of(budget)
    from softprompt.experiments.compare.comparison import Comparison
    from softprompt.experiments.compare.setup import ROWS

    asked = Comparison.of(
        backbone, sources or (), methods=_words(methods), seeds=_numbers("seeds", seeds, int),
        rates=_numbers("rates", rates, float), rows=rows or ROWS, quick=quick, out=out, options=load_options(flags),
        data_rows=[] if data_rows == "0" else _numbers("data-rows", data_rows, int),
        seconds=None if minutes is None else 60 * minutes, device=device, dtype=dtype,
    )  # fmt: skip
    if plan:
        print_json(asked.plan().to_json()) if as_json else print(asked.plan())
        return
    say(str(asked.plan()))
    try:
        found = asked.run(executor, jobs=jobs, budget=seconds)
    except KeyboardInterrupt:
        say("the comparison has stopped and nothing is lost: the same command goes on from there")
        raise
    if found.missing:
        say(f"{len(found.missing)} cells are missing; the same command goes on")
    if not found.outcomes:
        return
    _report(found.folder, as_json=as_json)


def seconds_of(budget: str) -> float:
    """Read a budget of time.

    Raises:
        ConfigError: it is no amount of time.

    >>> seconds_of("8h"), seconds_of("30 m")
    (28800.0, 1800.0)
    """
    from softprompt.training.budget import parse

    found = parse(budget)
    if found.unit != "seconds":
        raise ConfigError(f"the budget is `{budget}`; a comparison needs one of time, as `8h` or `30m`")
    return found.amount


def _there(out: Path | None) -> Path:
    if out is None:
        raise ConfigError("--report-only needs --out: the folder of the comparison that is to be reported")
    return out


def _words(given: str | None) -> list[str] | None:
    return None if given is None else [word.strip() for word in given.split(",") if word.strip()]


def _numbers(option: str, given: str | None, kind: type[Any]) -> list[Any] | None:
    try:
        return None if given is None else [kind(word) for word in _words(given) or ()]
    except ValueError as error:
        raise ConfigError(f"--{option} is `{given}`; write numbers with commas between them") from error


def _report(folder: Path, *, as_json: bool) -> None:
    """Write the report of what there is, and print it, or its words and its first table."""
    from softprompt.experiments.compare.comparison import planned
    from softprompt.experiments.report.report import write_report

    cells = planned(folder) or None
    try:
        made = write_report(folder, planned=cells)
    except MissingExtraError as error:
        say(f"without a page: {error}")
        made = write_report(folder, planned=cells, html=False)
    if as_json:
        print_json({**json.loads(made.json.read_text(encoding="utf-8")), "folder": str(folder)})
    else:
        print(_shown(made))


def _shown(made: ReportPaths) -> str:
    """The summary and the table of all tasks, as the Markdown has them."""
    head = made.markdown.read_text(encoding="utf-8").split("\n## ")[:2]
    files = [str(file) for file in (made.html, made.markdown, made.json) if file is not None]
    return "\n\n".join([head[0].strip(), *(part.partition("\n")[2].strip() for part in head[1:]), " · ".join(files)])

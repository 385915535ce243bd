"""`softprompt study`: draw how a result depends on one setting."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import typer

from softprompt.cli.opening import AS_JSON, DEFAULT_BACKBONE, DEVICE, DTYPE
from softprompt.cli.output import print_json
from softprompt.cli.settings import NOT_OF_EXPERIMENTS, with_settings
from softprompt.cli.task_flags import CONFIG, SOURCE, TASK, open_task, told_apart
from softprompt.progress import say
from softprompt.training.config import TrainConfig


@with_settings(TrainConfig, TASK, without=(*NOT_OF_EXPERIMENTS, "budget"))
def study(
    what: str = typer.Argument(help="What varies: length, init, placement, size, seeds or rate."),
    source: str = SOURCE,
    values: str | None = typer.Option(None, help="Its values, with commas: 1,5,20,100. Default: those of the paper."),
    seeds: str = typer.Option("0,1,2", help="Seeds of each value, with commas."),
    split: str = typer.Option("validation", help="Rows that the prompts are judged on: validation or test."),
    rows: int = typer.Option(1000, min=1, help="How many of them at most."),
    plan: bool = typer.Option(False, "--plan", help="Only say which trainings it takes."),
    folder: Path | None = typer.Option(None, help="Where the study lives. Default: under the home."),
    backbone: list[str] = typer.Option(
        [DEFAULT_BACKBONE], help="A packaged name, hub id, folder or .gguf file; repeat for a line or a size each."
    ),
    beside: list[str] = typer.Option(
        ["full"], help="In a study of sizes: a method that is trained beside soft prompts; repeat for more."
    ),
    prompts_only: bool = typer.Option(False, "--prompts-only", help="In a study of sizes: nothing beside them."),
    device: str | None = DEVICE,
    dtype: str | None = DTYPE,
    config: Path | None = CONFIG,
    as_json: bool = AS_JSON,
    **given: Any,
) -> None:
    """Train one setting at several values and seeds, and draw the result with its intervals; the same command goes on.

    Example: softprompt study length reviews.csv --values 1,5,20,100 --seeds 0,1,2
    """
    named, settings = told_apart(given)
    fixed = TrainConfig.read(config, **settings)
    task = open_task(source, named)
    from softprompt.backbones.backbone import load_backbone
    from softprompt.experiments.study import Study
    from softprompt.experiments.sweep_space import values_of

    asked = Study.of(
        what, backbone, task, values=values_of(values) if values else None, seeds=values_of(seeds), config=fixed,
        split=split, rows=rows, folder=folder, load=partial(load_backbone, device=device, dtype=dtype),
        beside=beside if what == "size" and not prompts_only else (),
    )  # fmt: skip
    if plan:
        print_json(asked.plan().to_json()) if as_json else print(asked.plan())
        return
    say(str(asked.plan()))
    try:
        found = asked.run()
    except KeyboardInterrupt:
        say("the study has stopped and nothing is lost: the same command goes on from there")
        raise
    if as_json:
        print_json({**found.to_json(), "folder": str(found.folder)})
        return
    print(f"{found}\n\ntables: {found.folder / 'study.md'}" + (f"; picture: {found.picture}" if found.picture else ""))

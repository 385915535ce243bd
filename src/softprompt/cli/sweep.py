"""`softprompt sweep`: search for better settings by validation loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from softprompt.cli.opening import AS_JSON, DEFAULT_BACKBONE, DEVICE, DTYPE, open_prompt
from softprompt.cli.output import print_json
from softprompt.cli.settings import NOT_OF_EXPERIMENTS, with_settings
from softprompt.cli.task_flags import CONFIG, SOURCE, TASK, again, command, open_task, told_apart
from softprompt.progress import say
from softprompt.training.config import TrainConfig

SEARCH = typer.Option(
    None,
    metavar="NAME=RANGE",
    help="A setting that varies, as learning_rate=log:0.003:0.1, virtual_tokens=int:5:100 or init=text,labels; "
    "repeat. Default: these three.",
)


@with_settings(TrainConfig, TASK, without=NOT_OF_EXPERIMENTS)
def sweep(
    source: str = SOURCE,
    search: list[str] | None = SEARCH,
    space: Path | None = typer.Option(None, help="YAML file of settings that vary; --search comes on top."),
    trials: int = typer.Option(20, min=1, help="Trials in all, those of earlier and other processes counted."),
    folder: Path | None = typer.Option(None, help="Where the sweep lives. Default: under the home."),
    backbone: str = typer.Option(DEFAULT_BACKBONE, help="A packaged name, hub id, folder or .gguf file."),
    device: str | None = DEVICE,
    dtype: str | None = DTYPE,
    config: Path | None = CONFIG,
    as_json: bool = AS_JSON,
    **given: Any,
) -> None:
    """Search for settings with a low validation loss; the same command goes on, and may run several times at once.

    Example: softprompt sweep reviews.csv --search learning_rate=log:0.003:0.1 --search init=text,labels --trials 20
    """
    asked, settings = told_apart(given)
    fixed = TrainConfig.read(config, **settings)
    from softprompt.experiments.sweep import require_optuna
    from softprompt.experiments.sweep import sweep as find
    from softprompt.experiments.sweep_space import Space

    require_optuna()
    varying = Space.of(space, search or ())
    start = open_prompt(fixed.init_prompt).prompt if fixed.init_prompt else None
    task = open_task(source, asked, seed=fixed.seed)
    from softprompt.backbones.backbone import load_backbone

    frozen = load_backbone(backbone, device=device, dtype=dtype)
    try:
        found = find(frozen, task, varying, fixed, trials=trials, folder=folder, start=start)
    except KeyboardInterrupt:
        say("the sweep has stopped and nothing is lost: the same command goes on from there")
        raise
    if as_json:
        print_json({**found.to_json(), "folder": str(found.folder)})
        return
    print(f"{found}\n\nbest settings: {found.best_file}" + (f"; picture: {found.picture}" if found.picture else ""))
    print(f"try: {command('softprompt', 'train', source, '--config', found.best_file, *again(asked, backbone))}")

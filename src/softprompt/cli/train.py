"""`softprompt train`: learn a prompt, print its report card, keep it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from softprompt.cli.opening import AS_JSON, DEFAULT_BACKBONE, DEVICE, DTYPE, check_output, open_prompt
from softprompt.cli.output import print_json, size_of
from softprompt.cli.settings import with_settings
from softprompt.cli.task_flags import SOURCE, TASK, command, open_task, told_apart
from softprompt.errors import ConfigError
from softprompt.progress import say, speaks
from softprompt.training.config import TrainConfig

if TYPE_CHECKING:
    from softprompt.prompts.soft_prompt import SoftPrompt
    from softprompt.training.train import TrainResult


@with_settings(TrainConfig, TASK)
def train(
    source: str = SOURCE,
    backbone: str = typer.Option(DEFAULT_BACKBONE, help="A packaged name, hub id, folder or .gguf file."),
    device: str | None = DEVICE,
    dtype: str | None = DTYPE,
    shard: bool = typer.Option(False, "--shard", help="Lay the backbone's layers over the processes (see docs)."),
    save: str | None = typer.Option(None, metavar="NAME", help="Keep the prompt in the store under this name."),
    out: Path | None = typer.Option(None, help="Write the prompt to this .safetensors file."),
    config: Path | None = typer.Option(None, help="YAML file of settings; flags come on top."),
    recipe: str | None = typer.Option(
        None, help="Settings of a paper, see `softprompt recipes list`; flags come on top."
    ),
    run: Path | None = typer.Option(None, help="Folder for measurements and checkpoints. Default: under the home."),
    resume: bool = typer.Option(False, "--resume", help="Go on from the run's last checkpoint."),
    as_json: bool = AS_JSON,
    **given: Any,
) -> None:
    """Teach a frozen backbone a task: learn a soft prompt, and say honestly how good it is.

    Example: softprompt train reviews.csv --text review --label sentiment --save sentiment
    """
    named, settings = told_apart(given)
    chosen = _settings(config, recipe, settings)
    start = _start(chosen)
    _check_places(save, out, chosen.ensemble)
    task = open_task(source, named, seed=chosen.seed)
    from softprompt.backbones.backbone import load_backbone
    from softprompt.training.train import train as learn

    frozen = load_backbone(backbone, device=device, dtype=dtype, shard=shard)
    if recipe is not None:  # a paper's rate is absolute: ours is relative to this backbone's embeddings
        chosen = _settings(config, recipe, settings, embedding_rms=frozen.embedding_rms)
    try:
        result = learn(frozen, task, chosen, run=run, resume=resume, start=start)
    except KeyboardInterrupt:
        say("training has stopped and its last step is safe: the same command with --resume goes on from there")
        raise
    if speaks():
        _show(result, _keep(result, save, out), backbone, as_json=as_json)


def _settings(
    config: Path | None, recipe: str | None, settings: Mapping[str, Any], *, embedding_rms: float | None = None
) -> TrainConfig:
    """The settings of a file or of a recipe, with the flags on top.

    Raises:
        ConfigError: both were given.
    """
    if recipe is None:
        return TrainConfig.read(config, **settings)
    if config is not None:
        raise ConfigError(f"--config `{config}` and --recipe `{recipe}` were both given; give one of them")
    from softprompt.experiments.recipes import load_recipe

    return load_recipe(recipe).config(embedding_rms=embedding_rms, **settings)


def _start(config: TrainConfig) -> SoftPrompt | None:
    """The prompt that training starts from, where the settings name one.

    Raises:
        ConfigError: a prompt or a text to start from, and another `init`, which would start elsewhere.
    """
    if config.init_text is not None and config.init not in (None, "text"):
        raise ConfigError(
            f"init_text is `{config.init_text}`, but init is `{config.init}`, which starts from no text; "
            "leave out one of them"
        )
    if config.init_prompt is None:
        return None
    if config.init != "prompt":
        raise ConfigError(
            f"init_prompt is `{config.init_prompt}`, but init is `{config.init or 'text'}`; set init to `prompt`"
        )
    return open_prompt(config.init_prompt).prompt


def _check_places(save: str | None, out: Path | None, members: int) -> None:
    """Refuse before training what would be refused after it."""
    from softprompt.store.layout import check_name

    if save is not None:
        check_name("prompt", save)
        check_name("prompt", member_name(save, members))
    if out is not None:
        check_output(out)


def _keep(result: TrainResult, save: str | None, out: Path | None) -> Mapping[str, str]:
    """Put the prompt where it was asked to be, and into the run's folder in any case: kind of place to place."""
    kept = {"run": str(result.run / "prompt.safetensors")}
    result.prompt.save(kept["run"])
    if out is not None:
        result.prompt.save(out)
        kept["file"] = str(out)
    if save is not None:
        kept["store"] = store(result, save)
    kept |= _keep_members(result, save, out)
    return kept


def _keep_members(result: TrainResult, save: str | None, out: Path | None) -> dict[str, str]:
    """Put the other members of an ensemble beside the first: place by the kind of place and the member's number."""
    from softprompt.store.store import PromptStore

    kept = {}
    for number, prompt in enumerate(result.members[1:], start=2):
        path = result.run / f"prompt-{number}.safetensors"
        prompt.save(path)
        kept[f"run {number}"] = str(path)
        if out is not None:
            beside = out.with_name(member_name(out.stem, number) + out.suffix)
            prompt.save(beside)
            kept[f"file {number}"] = str(beside)
        if save is not None:
            kept[f"store {number}"] = str(PromptStore().put(prompt, member_name(save, number)))
    return kept


def member_name(name: str, number: int) -> str:
    """Return what a member of an ensemble is called; the first has the name itself.

    >>> member_name("mood", 1), member_name("mood", 3)
    ('mood', 'mood-3')
    """
    return name if number == 1 else f"{name}-{number}"


def store(result: TrainResult, name: str) -> str:
    """Put a trained prompt into the store, its report card beside it, and return its version as `name@v1`."""
    from softprompt.store.store import PromptStore

    there = PromptStore()
    version = there.put(result.prompt, name)
    if result.report is not None:
        there.add_evaluation(result.prompt.digest, "report", result.report.to_json())
    return str(version)


def _show(result: TrainResult, kept: Mapping[str, str], backbone: str, *, as_json: bool) -> None:
    size = len(result.prompt.to_bytes())
    if as_json:
        about = {"digest": result.prompt.digest, "bytes": size, "virtual_tokens": result.prompt.length}
        report = None if result.report is None else result.report.to_json()
        print_json({"prompt": about, "kept": dict(kept), "run": str(result.run), "report": report})
        return
    if result.report is not None:
        print(f"{result.report}\n")
    place = kept.get("store") or kept.get("file") or kept["run"]
    print(f"kept as {place}: {result.prompt.length} virtual tokens, {size_of(size)}; measurements in {result.run}")
    first = _called(kept, "store", place)
    others = [_called(kept, f"store {n}", kept[f"run {n}"]) for n in range(2, len(result.members) + 1)]
    if others:
        print(f"its other members: {', '.join(others)}")
    how = ["--ensemble", "mean"] if others else []
    how += [] if backbone == DEFAULT_BACKBONE else ["--backbone", backbone]
    print(f"try: {command('softprompt', 'run', ','.join([first, *others]), *how)} {_some_row(result.prompt)}")


def _called(kept: Mapping[str, str], place: str, file: str) -> str:
    """What `run` knows a prompt by: its name in the store, without the version, else its file."""
    return kept[place].partition("@")[0] if place in kept else file


def _some_row(prompt: SoftPrompt) -> str:
    """An input that the prompt takes, as words of a command: a text, or a value for each of its fields."""
    from softprompt.tasks.readers.choices import COLUMN

    fields = prompt.template.fields
    if len(fields) == 1:
        return '"some text"'
    values = {field: "A. one\nB. another" if field == COLUMN else "some text" for field in fields}
    return command(*(word for field in fields for word in ("--field", f"{field}={values[field]}")))

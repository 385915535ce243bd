"""`softprompt demo`: the main job from end to end, on packaged data, with a packaged backbone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from softprompt.cli.opening import DEFAULT_BACKBONE, check_output
from softprompt.cli.output import answer_table, size_of
from softprompt.cli.train import store
from softprompt.home import runs_dir
from softprompt.progress import say

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.tasks.task import Task
    from softprompt.training.train import TrainResult

PROMPTS = {"sentiment": "tweet-sentiment", "spam": "sms-spam"}
"""The prompts that the demo makes, and the packaged data set of each."""
SETTINGS = {
    "race": False,
    "steps": 80,
    "validate_every": 40,
    "validation_rows": 256,
    "test_rows": 400,
    "probe_rows": 1500,
}
"""The default prompt on a small budget: the demo is to end within minutes on two cores. `softprompt train` has a larger
one, and lets candidates race."""
TITLE = "softprompt demo: two soft prompts, one frozen model"
QUICK = {"race": False, "steps": 4, "validate_every": 2, "validation_rows": 32, "test_rows": 60, "probe_rows": 120}
LINES = (
    "best concert of my life, I am still smiling",
    "stuck at the airport for six hours and nobody tells us anything",
    "WINNER! You have been selected for a £1000 prize. Text CLAIM to 87121 now",
    "are we still on for lunch tomorrow?",
    "URGENT: your account is on hold, call 0906 1701461 to get your free upgrade",
    "so proud of my little sister today!",
    "this phone is a complete waste of money",
    "the train leaves at 9:40 from platform 3",
)
"""A mixed list: some lines ask for one prompt, some for the other; both answer all."""


@dataclass
class Phases:
    """Says when each part of a job begins, and at the end how long each took."""

    seconds: dict[str, float]

    @contextmanager
    def phase(self, title: str) -> Iterator[None]:
        """Run one part under its title."""
        print(f"\n== {title}", flush=True)
        began = time.monotonic()
        yield
        self.seconds[title] = time.monotonic() - began

    def __str__(self) -> str:
        took = [f"  {seconds:6.1f} s  {title}" for title, seconds in self.seconds.items()]
        return "\n".join([*took, f"  {sum(self.seconds.values()):6.1f} s  together"])


def demo(
    backbone: str = typer.Option(DEFAULT_BACKBONE, help="A packaged name, hub id, folder or .gguf file."),
    steps: int | None = typer.Option(
        None, min=1, help=f"Optimizer steps for each prompt. Default: {SETTINGS['steps']}."
    ),
    quick: bool = typer.Option(False, "--quick", help="Almost no training: only to see that everything works."),
    picture: Path = typer.Option(Path("demo.png"), help="Where the picture of the training goes."),
) -> None:
    """Teach a frozen Gemma tweet sentiment and SMS spam, see how good each prompt is, and run both in one batch.

    Example: softprompt demo
    """
    from softprompt.experiments.plots import require_matplotlib, training_curves

    require_matplotlib()
    check_output(picture)
    settings: dict[str, Any] = {**(QUICK if quick else SETTINGS), **({} if steps is None else {"steps": steps})}
    phases = Phases({})
    with phases.phase("data: two packaged data sets"):
        tasks = _tasks()
    with phases.phase(f"backbone: {backbone} (converted once, then loaded in seconds)"):
        frozen = _backbone(backbone)
    results = {}
    for name, task in tasks.items():
        with phases.phase(f"{name}: a soft prompt for `{task.name}`, the backbone frozen"):
            results[name] = _learn(frozen, task, name, settings)
            print(f"\n{results[name].report}", flush=True)
    with phases.phase("both prompts, one batch, one resident model"):
        print(_mixed(frozen, results))
    with phases.phase("picture"):
        drawn = training_curves({name: result.run for name, result in results.items()}, picture, title=TITLE)
    print(f"\n{_sizes(frozen, results)}\n\npicture: {drawn}\n\ntime:\n{phases}\n\n{_next()}")


def _tasks() -> dict[str, Task]:
    from softprompt.tasks.load import load_task

    tasks = {name: load_task(source) for name, source in PROMPTS.items()}
    for task in tasks.values():
        say(task.describe())
    return tasks


def _backbone(source: str) -> Backbone:
    from softprompt.backbones.backbone import load_backbone

    frozen = load_backbone(source)
    say(f"{frozen}: {size_of(_weight_bytes(frozen))} of frozen weights")
    return frozen


def _learn(backbone: Backbone, task: Task, name: str, settings: Mapping[str, Any]) -> TrainResult:
    """Train one prompt and put it into the store; a demo that was interrupted goes on where it was."""
    from softprompt.training.runs import RunFolder, resumed_or_anew
    from softprompt.training.train import train

    run = RunFolder(runs_dir() / f"demo-{name}")
    finished = any(event["event"] == "report" for event in run.events())
    try:
        result = resumed_or_anew(
            lambda resume: train(backbone, task, run=run.path, resume=resume, **settings),
            resume=not finished and run.checkpoint.exists(),
        )
    except KeyboardInterrupt:
        say("the demo has stopped and its last step is safe: the same command goes on from there")
        raise
    say(f"kept in the store as {store(result, name)}")
    return result


def _mixed(backbone: Backbone, results: Mapping[str, TrainResult]) -> str:
    """Answer every line with every prompt, in one call and so in the same batch."""
    from softprompt.modeling.prompted_model import PromptedModel

    prompts = [result.prompt for result in results.values()]
    rows = [dict.fromkeys(prompt.template.fields, line) for line in LINES for prompt in prompts]
    answers = PromptedModel(backbone).score(rows, prompts * len(LINES))
    width = len(prompts)
    each = [answers[i * width : (i + 1) * width] for i in range(len(LINES))]
    return answer_table(LINES, list(results), each)


def _weight_bytes(backbone: Backbone) -> int:
    return sum(weight.numel() * weight.element_size() for weight in backbone.model.parameters())


def _sizes(backbone: Backbone, results: Mapping[str, TrainResult]) -> str:
    weights = _weight_bytes(backbone)
    sizes = {name: len(result.prompt.to_bytes()) for name, result in results.items()}
    lines = [f"  {size_of(size):>10}  the prompt {name}, 1/{weights // size:,}" for name, size in sizes.items()]
    return "\n".join(["sizes:", f"  {size_of(weights):>10}  {backbone.name}, shared by all prompts", *lines])


def _next() -> str:
    tries: Sequence[str] = (
        'softprompt run sentiment,spam "what a lovely surprise"',
        "softprompt run sentiment,spam lines.txt -o answers.csv",
        "softprompt prompts list",
        "softprompt train your.csv --text COLUMN --label COLUMN --save NAME",
    )
    return "\n".join(["try next:", *(f"  {each}" for each in tries)])

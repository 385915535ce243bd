"""The single measurements of the bank benchmark; each is called in a process of its own."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from prefix_tuning import PrefixTuning
from rival_rows import RivalRows
from rounds import turn_by_turn
from subjects import Setting, backbone_of, task_of
from ways import Pace, lean, plain, run_bank, run_one, winner

from softprompt.methods.token_rows import TokenRow
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.tasks.load import load_task
from softprompt.training.config import TrainConfig
from softprompt.training.train import train

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.prompts.soft_prompt import SoftPrompt
    from softprompt.tasks.task import Task


def one(case: str, arguments: Mapping[str, Any], **setting: Any) -> dict[str, Any]:
    """Run one case by name."""
    cases = {"bank": bank, "deep": deep, "classes": classes, "default": default}
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = cases[case](Setting(**setting), Path(folder), **arguments)
    return found


def bank(setting: Setting, folder: Path, *, prompts: int, batch: int, steps: int, rounds: int) -> dict[str, Any]:
    """Seconds of CPU, and of the wall, of a bank and of as many single runs, turn by turn."""
    backbone, task = backbone_of(setting), lean(task_of(setting))
    configs = [plain(steps, seed=seed, batch_size=batch) for seed in range(prompts)]

    def single(_: int) -> None:
        for config in configs:
            run_one(backbone, task, config, folder)

    sides = {"bank": lambda _: run_bank(backbone, task, configs, folder), "single runs": single}
    wall: dict[str, list[float]] = {name: [] for name in sides}
    timed = {name: _watched(side, wall[name], setting) for name, side in sides.items()}
    cpu = turn_by_turn(timed, rounds=rounds, steps=1, clock=time.process_time)
    return {
        "cpu": cpu,
        "wall": {name: seconds[1:] for name, seconds in wall.items()},
        "prompts": prompts,
        "batch": batch,
    }


def _watched(side: Callable[[int], object], wall: list[float], setting: Setting) -> Callable[[int], None]:
    """The same, with its wall time noted; a GPU is waited for."""

    def run(number: int) -> None:
        began = time.perf_counter()
        side(number)
        if setting.device != "cpu":
            torch.cuda.synchronize()
        wall.append(time.perf_counter() - began)

    return run


def deep(setting: Setting, folder: Path, *, virtual_tokens: int, steps: int, rounds: int) -> dict[str, Any]:
    """Examples a second of deep prompts and of PEFT's prefix tuning, turn by turn on batches of the same rows."""
    backbone, task = backbone_of(setting), lean(task_of(setting))
    config = plain(steps, parameterization="deep", virtual_tokens=virtual_tokens)
    rows = RivalRows(backbone, task, 0, config.batch_size)
    theirs = PrefixTuning(backbone, task, virtual_tokens)
    sides: dict[str, Callable[[], Pace]] = {
        "softprompt": lambda: run_one(backbone, task, config, folder),
        "PEFT, as documented": lambda: _pace(theirs.documented, rows, steps, setting),
        "PEFT, label positions only": lambda: _pace(theirs.label_positions, rows, steps, setting),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):  # the first warms up
        for name in [*sides][turn % 3 :] + [*sides][: turn % 3]:
            pace = sides[name]()
            rates[name] += [pace.rate] if turn else []
    return {"rates": rates, "virtual tokens": virtual_tokens, "batch": config.batch_size}


def _pace(step: Callable[[list[TokenRow]], None], rows: RivalRows, steps: int, setting: Setting) -> Pace:
    batches = [rows.batch(number) for number in range(steps)]
    began = time.perf_counter()
    for batch in batches:
        step(batch)
    if setting.device != "cpu":
        torch.cuda.synchronize()
    return Pace(sum(map(len, batches)), time.perf_counter() - began)


def classes(setting: Setting, folder: Path, *, steps: int, rounds: int, rows: int) -> dict[str, Any]:
    """Training and scoring rates of the same texts with all their labels and with two, by readout."""
    backbone = backbone_of(setting)
    whole = task_of(setting, "banking77")
    tasks = {"all": lean(whole), "two": lean(load_task(_halved(setting, folder / "two")))}
    texts = [example.fields for example in whole.splits["test"][:rows]]
    found: dict[str, Any] = {"labels": {name: len(task.labels) for name, task in tasks.items()}}
    for readout, learned in (("learned rows", True), ("label words", False)):
        config = plain(steps, learned_rows=learned)
        found[readout] = {
            "training": _trained(backbone, tasks, config, folder, rounds),
            "scoring": _scored(backbone, tasks, config, folder / readout, rounds, texts),
        }
    return found


def _trained(
    backbone: Backbone, tasks: Mapping[str, Task], config: TrainConfig, folder: Path, rounds: int
) -> dict[str, list[float]]:
    """Examples a second of short runs, by task, turn by turn; the first round warms up."""
    rates: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(rounds + 1):
        for name in [*tasks] if turn % 2 else [*tasks][::-1]:
            pace = run_one(backbone, tasks[name], config, folder)
            rates[name] += [pace.rate] if turn else []
    return rates


def _scored(
    backbone: Backbone, tasks: Mapping[str, Task], config: TrainConfig, folder: Path, rounds: int, texts: list[Any]
) -> dict[str, list[float]]:
    """Rows a second of the same texts with a prompt for each task, turn by turn."""
    model = PromptedModel(backbone)
    prompts = {name: train(backbone, task, config, run=folder / name).prompt for name, task in tasks.items()}
    sides = {name: partial(_score, model, texts, prompt) for name, prompt in prompts.items()}
    seconds = turn_by_turn(sides, rounds=rounds, steps=1)
    return {name: [len(texts) / each for each in own] for name, own in seconds.items()}


def _score(model: PromptedModel, texts: list[Any], prompt: SoftPrompt, _: int) -> None:
    model.score(texts, prompt)


def _halved(setting: Setting, folder: Path) -> str:
    """The rows of banking77 with two labels: one for each half of its labels in the order of their names."""
    source = setting.source("banking77")
    if source is None:
        raise ValueError("banking77 is not there; give --data")
    folder.mkdir()
    files = {path.name: _lines(path) for path in Path(source).glob("*.jsonl")}
    names = sorted({row["label"] for rows in files.values() for row in rows})
    half = {name: "yes" if place < len(names) / 2 else "no" for place, name in enumerate(names)}
    for name, rows in files.items():
        lines = (json.dumps({**row, "label": half[row["label"]]}) + "\n" for row in rows)
        (folder / name).write_text("".join(lines), encoding="utf-8")
    return str(folder)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def default(setting: Setting, folder: Path, *, data: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """CPU and wall seconds of `train` with no settings, and of one plain run of what it chose."""
    backbone, task = backbone_of(setting), task_of(setting, data)
    chosen: list[TrainConfig] = []

    def whole() -> None:
        result = train(backbone, task, run=folder / "default", **options)
        chosen.append(winner(result.prompt.provenance["recipe"], **options))

    seconds = {
        "default": _both(whole, setting),
        "winner": _both(lambda: train(backbone, task, chosen[0], run=folder / "winner"), setting),
    }
    bare = chosen[0].model_copy(update={"report": False})
    seconds["winner, no report"] = _both(lambda: train(backbone, task, bare, run=folder / "bare"), setting)
    return {"seconds": seconds, "winner": chosen[0].model_dump(exclude_none=True)}


def _both(action: Callable[[], object], setting: Setting) -> dict[str, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    action()
    if setting.device != "cpu":
        torch.cuda.synchronize()
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}

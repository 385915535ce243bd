"""A script, run by `test_sweep_processes`: sweeps and studies in peace, killed again and again, and two at once.

Everything is imported once; each part is a fork of this process, so that a kill costs milliseconds.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from softprompt.experiments import sweep_journal  # noqa: F401 - imported here, once for all forks
from softprompt.experiments.study import Study
from softprompt.experiments.sweep import sweep
from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows
from softprompt.training.config import TrainConfig

TRIALS, KILLS = 5, 6
SHORT = TrainConfig(
    parameterization="direct", learned_rows=False, steps=4, batch_size=4, validate_every=2, validation_rows=8,
    checkpoint_every=1,
)  # fmt: skip
SPACE = {"learning_rate": "log:0.003:0.1", "virtual_tokens": "int:1:6", "init": ["text", "random"]}

torch.set_num_threads(1)  # a fork keeps no other thread
BACKBONE = tiny_backbone("llama")
BACKBONE.fingerprint  # noqa: B018 - worked out here, once for all forks
TASK = load_task({"train": toy_rows(24), "validation": toy_rows(8, 1), "test": toy_rows(10, 2)}, name="toy")


def search(folder: Path) -> None:
    sweep(BACKBONE, TASK, SPACE, SHORT, trials=TRIALS, folder=folder)


def draw(folder: Path) -> None:
    Study.of("length", [BACKBONE], TASK, values=[1, 4], seeds=[0, 1], config=SHORT, folder=folder).run()


def forked(job: Callable[[Path], None], folder: Path, news: Path) -> int:
    """Do a job in a child whose news go to a file; return its process id."""
    child = os.fork()
    if child:
        return child
    try:
        os.dup2(os.open(news, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        job(folder)
        os._exit(0)
    except BaseException:  # noqa: BLE001 - a child has nobody else to tell
        traceback.print_exc()
    finally:
        os._exit(1)


def finish(job: Callable[[Path], None], folder: Path, news: Path) -> float:
    began = time.monotonic()
    _, status = os.waitpid(forked(job, folder, news), 0)
    assert status == 0, news.read_text()
    return time.monotonic() - began


def killed(job: Callable[[Path], None], folder: Path, news: Path, seconds: float) -> int:
    """Kill a job at random moments, each time that it goes on; return how often it was killed."""
    chance, kills = random.Random(1), 0
    for _ in range(3 * KILLS):
        child = forked(job, folder, news)
        time.sleep(chance.uniform(0, 2 * seconds / KILLS))
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if kills == KILLS:
            break
    return kills


def trials(folder: Path) -> list[object]:
    told = json.loads((folder / "sweep.json").read_text())
    return [[trial["settings"], trial["loss"]] for trial in told["trials"]]


def cells(folder: Path) -> list[object]:
    kept = ("value", "seed", "right", "digest")
    found = [json.loads(file.read_text()) for file in sorted(folder.rglob("cell.json"))]
    return [[cell[name] for name in kept] for cell in found]


def compared(place: Path, name: str) -> dict[str, object]:
    """One job in peace, beside one that is killed again and again."""
    job, read = {"sweep": (search, trials), "study": (draw, cells)}[name]
    place.mkdir()
    seconds = finish(job, place / "calm", place / "calm.txt")
    kills = killed(job, place / "killed", place / "killed.txt", seconds)
    finish(job, place / "killed", place / "killed.txt")
    return {
        "kills": kills,
        "calm": read(place / "calm"),
        "killed": read(place / "killed"),
        "news": (place / "killed.txt").read_text(),
    }


def together(place: Path, name: str) -> dict[str, object]:
    """Two processes at one job."""
    job, read = {"sweep": (search, trials), "study": (draw, cells)}[name]
    place.mkdir()
    news = [place / "one.txt", place / "two.txt"]
    children = [forked(job, place / "both", file) for file in news]
    states = [os.waitpid(child, 0)[1] for child in children]
    finish(job, place / "both", place / "end.txt")  # what there is when both have ended
    return {"states": states, "found": read(place / "both"), "news": [file.read_text() for file in news]}


if __name__ == "__main__":
    place = Path(sys.argv[1])
    told = {
        f"{what.__name__} {name}": what(place / f"{what.__name__}-{name}", name)
        for what in (compared, together)
        for name in ("sweep", "study")
    }
    print(json.dumps(told))

"""A script, run by `test_kill_resume`: trains in peace and killed again and again, and prints both prompts.

Everything is imported once; each training is a fork of this process, so that a kill costs milliseconds.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.training.runs import RunFolder
from softprompt.training.train import train

KILLS, STEPS = 10, 24
SETTINGS = {
    "steps": STEPS, "batch_size": 4, "virtual_tokens": 4, "validate_every": 5, "validation_rows": 8, "report": False,
    "patience": STEPS,
}  # fmt: skip

torch.set_num_threads(1)  # a fork keeps no other thread
BACKBONE = tiny_backbone("llama")
BACKBONE.fingerprint  # noqa: B018 - worked out here, once for all forks
WORDS = ("good", "bad", "film", "plot", "heart", "music", "dull", "warm")
TASK = load_task(
    [{"text": f"{a} {b} {n}", "label": "ab"[n % 2]} for n, a in enumerate(WORDS) for b in WORDS], name="mail"
)


def learn(folder: Path, every: int) -> None:
    result = train(BACKBONE, TASK, run=folder, resume=True, checkpoint_every=every, **SETTINGS)
    result.prompt.save(folder / "prompt.safetensors")


def forked(folder: Path, every: int) -> int:
    """Train in a child; return its process id."""
    child = os.fork()
    if child:
        return child
    try:
        learn(folder, every)
        os._exit(0)
    finally:
        traceback.print_exc()
        os._exit(1)


def finish(folder: Path, every: int) -> float:
    """Let a training end; return seconds."""
    began = time.monotonic()
    _, status = os.waitpid(forked(folder, every), 0)
    assert status == 0, f"training ended with status {status}"
    return time.monotonic() - began


def killed(folder: Path, every: int, seconds: float) -> Iterator[int]:
    """Kill the training at ten random moments, each time that it goes on; yield the steps logged by then."""
    chance, kills, pause = random.Random(every), 0, 4 * seconds / KILLS
    while kills < KILLS:
        child = forked(folder, every)
        time.sleep(chance.uniform(0, pause))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            kills += 1
            yield len(steps_of(folder))
        else:
            pause /= 2  # it had ended by then: the machine is faster than it was


def steps_of(folder: Path) -> list[int]:
    return [event["step"] for event in RunFolder(folder).events() if event["event"] == "step"]


def compared(place: Path, every: int) -> dict[str, object]:
    """One training in peace beside one that is killed, a checkpoint every so many steps."""
    calm, restless = place / "calm", place / "killed"
    seconds = finish(calm, every)
    moments = list(killed(restless, every, seconds))
    finish(restless, every)
    prompts = [(folder / "prompt.safetensors").read_bytes().hex() for folder in (calm, restless)]
    return {"moments": moments, "prompts": prompts, "steps": [steps_of(folder) for folder in (calm, restless)]}


if __name__ == "__main__":
    print(json.dumps([compared(Path(sys.argv[1], every), int(every)) for every in sys.argv[2:]]))

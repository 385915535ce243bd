"""`kill -9` at ten random moments of a training, `--resume` each time: are the prompt's bytes those of a calm run?"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from child import call
from results import Result, Table
from subjects import GPT2, PACKAGED, TINY, Setting

KILLS, CHECKPOINTS = 10, (1, 2, 3)

PROCEDURE = """`softprompt train` runs as a child process. Once its log has moved, it gets SIGKILL after a random part
of a few steps' time, and is started again with `--resume`; after ten kills it is left to end. The prompt's file is
compared, byte for byte, with that of a run of the same command that nothing disturbed."""


@dataclass
class Training:
    """One run of `softprompt train` that may die and go on."""

    setting: Setting
    backbone: str
    folder: Path
    steps: int
    every: int

    @property
    def prompt(self) -> Path:
        return self.folder / "prompt.safetensors"

    def start(self, *, resume: bool = False) -> subprocess.Popen[bytes]:
        few = ["--validation-rows", "32", "--validate-every", "10", "--no-report"]
        command = [
            sys.executable, "-m", "softprompt", "train", self.setting.source("sst2") or PACKAGED,
            "--backbone", self.backbone, "--dtype", self.setting.dtype, "--run", str(self.folder / "run"),
            "--out", str(self.prompt), "--steps", str(self.steps), "--checkpoint-every", str(self.every), *few,
        ]  # fmt: skip
        return subprocess.Popen(
            [*command, "--resume"] if resume else command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def finish(self, *, resume: bool = False) -> float:
        """Let it end; return seconds."""
        began = time.monotonic()
        code = self.start(resume=resume).wait()
        if code:
            raise RuntimeError(f"`softprompt train` ended with code {code}; run it by hand to see why")
        return time.monotonic() - began

    def kill_once(self, chance: random.Random, pause: float) -> int | None:
        """Start, wait until its log moves, and kill a random while later; None if it had ended by then."""
        metrics = self.folder / "run" / "metrics.jsonl"
        child = self.start(resume=True)
        before = _modified(metrics)
        while child.poll() is None and (_modified(metrics) == before or not _steps(metrics)):
            time.sleep(0.005)
        time.sleep(chance.random() * pause)
        if child.poll() is not None:
            return None
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        return _steps(metrics)


def kills(setting: Setting) -> Result:
    table = Table(
        "Killed and resumed", ["checkpoint every", "kills, at step", "prompt of the calm run", "the same bytes"]
    )
    figures = []
    with tempfile.TemporaryDirectory() as place:
        backbone = _backbone(setting, Path(place))
        for every in CHECKPOINTS[: setting.pick(None, 1)]:
            seen = _one(setting, backbone, Path(place, str(every)), every)
            figures.append(seen)
            at = ", ".join(map(str, seen["kills"]))
            same = "yes" if seen["same"] else "**no**"
            table.rows.append([str(every), at, f"sha256 {seen['digest'][:16]}…", same])
    title = "Killed at random, resumed, the same bytes"
    return Result("kills", title, PROCEDURE, [table], {"runs": figures}, setting.files("sst2"))


def _one(setting: Setting, backbone: str, folder: Path, every: int) -> dict[str, object]:
    steps = setting.pick(40, 12)
    calm = Training(setting, backbone, folder / "calm", steps, every)
    killed = Training(setting, backbone, folder / "killed", steps, every)
    calm.finish()
    chance = random.Random(every)
    pause = 6 * _step_seconds(calm.folder / "run" / "metrics.jsonl")
    moments = [killed.kill_once(chance, pause) for _ in range(setting.pick(KILLS, 3))]
    killed.finish(resume=True)
    digests = [hashlib.sha256(each.prompt.read_bytes()).hexdigest() for each in (calm, killed)]
    done = [step for step in moments if step is not None]
    return {"every": every, "kills": done, "digest": digests[0], "same": digests[0] == digests[1], "steps": steps}


def _backbone(setting: Setting, place: Path) -> str:
    """What the command is to load; a tiny backbone is put into a folder first."""
    if not setting.backbone.startswith(TINY) and setting.backbone != GPT2:
        return setting.backbone
    call("kills", "save_backbone", folder=str(place / "backbone"), **setting.plain())
    return str(place / "backbone")


def save_backbone(folder: str, **setting: object) -> None:
    """Write a tiny backbone as a folder; runs in a process of its own."""
    from subjects import backbone_of

    made = backbone_of(Setting(**setting))
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _steps(path: Path) -> int:
    return path.read_text(encoding="utf-8").count('"event": "step"') if path.exists() else 0


def _step_seconds(path: Path) -> float:
    """Time from step to step of a run that ended well, by the rate that it logged."""
    import json

    events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rates = [event["examples_per_second"] for event in events if event["event"] == "step"]
    return 32 / (sum(rates) / len(rates))

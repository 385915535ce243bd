"""Train a tiny backbone with compiled layers; run by `test_compiled.py` without its type checks, which cannot be."""

import json
import os
import signal
import sys
from pathlib import Path

from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows
from softprompt.training import trainer
from softprompt.training.bank import gradients
from softprompt.training.runs import RunFolder
from softprompt.training.train import train

SETTINGS = {"steps": 12, "batch_size": 8, "virtual_tokens": 4, "race": False, "report": False, "checkpoint_every": 5}


def killed_at(step):
    calls = []

    def passes(*given):
        calls.append(1)
        if len(calls) > 1 + step:  # the first call compiles
            os.kill(os.getpid(), signal.SIGKILL)
        return gradients(*given)

    return passes


def main(folder, compiles, kill):
    if kill:
        trainer.gradients = killed_at(int(kill))
    task = load_task({"train": toy_rows(200), "validation": toy_rows(60, 1)}, name="toy")
    found = train(tiny_backbone("gemma3"), task, run=folder, resume=True, compile_layers=bool(compiles), **SETTINGS)
    losses = [event["loss"] for event in RunFolder(folder).events() if event["event"] == "step"]
    print(json.dumps({"digest": found.prompt.digest, "losses": losses}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))

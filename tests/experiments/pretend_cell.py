"""What stands for the process of a cell: it loads nothing, and what it finds is decided by the cell's name alone.

`PRETEND_SECONDS` is how long a cell takes; `PRETEND_DEATHS` says by which signal, or exit code, some methods die.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from softprompt.experiments.compare.cells import Ask, name_of
from softprompt.experiments.compare.outcomes import Outcome
from softprompt.experiments.compare.own_process import answer_one

FACTS = {
    "fingerprint": {"weights": "w"}, "dtype": "float32", "device": "cpu", "parameters": 1000, "seconds a token": 1e-4,
}  # fmt: skip
COMMAND = (sys.executable, str(Path(__file__)))
BEST = {"free": 1.0, "low": 0.3, "high": 3.0}
"""The rate whose validation loss is lowest, by the end of a method's name; 1.0 for the others."""


def pretended(ask: Ask) -> Outcome:
    cell = ask.cell
    chance = hashlib.sha256(f"{cell.task} {name_of(cell)} {cell.rate}".encode()).digest()
    best = BEST.get(cell.method.rpartition("-")[2], 1.0)
    loss = 0.5 + abs(cell.rate - best)
    made = Outcome(cell, ("negative", "positive"), validation_loss=loss, origin=ask.origin, notes=ask.notes)
    if cell.method.startswith("refused"):
        return Outcome(cell, failed="it cannot", origin=ask.origin)
    if cell.role == "search":
        return made
    gold = tuple(n % 2 for n in range(10))
    return Outcome(
        cell, made.labels, gold, tuple(byte % 2 for byte in chance[:10]), (-0.5,) * 10, (0.6,) * 10, loss,
        origin=ask.origin, notes=ask.notes,
    )  # fmt: skip


def answered(question: dict[str, Any]) -> dict[str, Any]:
    if "cell" not in question:
        return {**FACTS} if question["backbone"] != "nowhere" else {"error": "BackboneError", "message": "no `nowhere`"}
    ask = Ask.of(question)
    print("what a library prints")
    time.sleep(float(os.environ.get("PRETEND_SECONDS", "0")))
    death = json.loads(os.environ.get("PRETEND_DEATHS", "{}")).get(ask.cell.method)
    if death is not None:
        os.kill(os.getpid(), death) if death > 0 else os._exit(-death)
    pretended(ask).write(ask.file)
    return {"written": True}


if __name__ == "__main__":
    answer_one(answered)

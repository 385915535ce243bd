"""A script, run by `test_comparison_kills`: a comparison in peace, and one that is killed at random moments.

Everything is imported once; each run is a fork of this process. Its cells are processes of their own, as always.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import methods_that_pretend as pretend
import pretend_cell

from softprompt.experiments.compare.comparison import compare
from softprompt.testing.toy import toy_rows

KILLS = 3


def work(place: Path) -> None:
    compare(
        "tiny", [place.parent / "toy.jsonl"], methods=["plain-free", "tuned-high"], seeds=[0, 1],
        data_rows=[], out=place, command=pretend_cell.COMMAND, jobs=2,
    )  # fmt: skip


def forked(place: Path) -> int:
    """Compare in a child whose news go to a file; return its process id."""
    child = os.fork()
    if child:
        return child
    try:
        os.dup2(os.open(place.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        work(place)
        os._exit(0)
    except BaseException:  # noqa: BLE001 - a child has nobody else to tell
        traceback.print_exc()
    finally:
        os._exit(1)


def finish(place: Path) -> float:
    began = time.monotonic()
    _, status = os.waitpid(forked(place), 0)
    assert status == 0, place.with_suffix(".txt").read_text()
    return time.monotonic() - began


def stamps(place: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in place.glob("toy/*.json")}


def killed(place: Path, seconds: float) -> tuple[int, list[str]]:
    """Kill a comparison at random moments, each time that it goes on; return how often, and what was run again."""
    chance, kills, again = random.Random(2), 0, []
    for _ in range(3 * KILLS):
        before, child = stamps(place), forked(place)
        time.sleep(chance.uniform(0, 2.5 * seconds / KILLS))
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        again += [name for name, stamp in before.items() if stamps(place)[name] != stamp]
        if kills == KILLS:
            break
    return kills, again


def found(place: Path) -> dict[str, object]:
    """Every outcome but for how long it took."""
    read = {file.name: json.loads(file.read_text()) for file in place.glob("toy/*.json")}
    return {name: {**plain, "seconds": 0} for name, plain in sorted(read.items())}


if __name__ == "__main__":
    os.environ["PRETEND_SECONDS"] = "0.02"
    pretend.install()
    folder = Path(sys.argv[1])
    (folder / "toy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in toy_rows(60)))
    seconds = finish(folder / "calm")
    kills, again = killed(folder / "killed", seconds)
    before = stamps(folder / "killed")
    finish(folder / "killed")
    again += [name for name, stamp in before.items() if stamps(folder / "killed")[name] != stamp]
    print(json.dumps({
        "kills": kills, "again": again, "before the last": len(before), "calm": found(folder / "calm"),
        "killed": found(folder / "killed"), "left": [path.name for path in (folder / "killed" / "work").iterdir()],
    }))  # fmt: skip

"""A real server under mixed traffic: disconnects, replaced prompts, malformed and oversized requests, a full queue.

`SOFTPROMPT_SOAK_MINUTES=5` gives it five minutes; by default it has twenty seconds.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MINUTES = float(os.environ.get("SOFTPROMPT_SOAK_MINUTES", "0.33"))
# The long form starts fresh processes, as an operator does; the short one forks a process that has imported everything.
RUN = ROOT / "benchmarks" / "run.py" if MINUTES >= 5 else ROOT / "tests" / "benchmarks" / "forked.py"
FLAT = 0.02 if MINUTES >= 5 else 0.10  # what is kept fills up in the first minutes


@pytest.mark.slow
@pytest.mark.timeout(60 * MINUTES + 600)
def test_after_mixed_traffic_the_server_is_there_no_larger_and_every_answer_was_right(tmp_path):
    command = [sys.executable, str(RUN), "soak", "--tiny", "--minutes", str(MINUTES), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((tmp_path / "soak.json").read_text(encoding="utf-8"))["figures"]
    assert found["problems"] == []
    assert found["errors"] == []
    assert found["alive"]
    assert found["exit code"] == 0
    assert [check for check in found["checks"] if not check["holds"]] == []
    assert found["growth"] <= FLAT, f"{found['growth']:+.1%} of {found['mean']:.0f} MiB"
    assert found["events"]["right answers"] == found["answered"] > 200
    happened = {
        "answers after the load", "clients that left", "connections without HTTP", "malformed requests refused",
        "oversized requests refused", "prompts replaced", "refused: queue full",
    }  # fmt: skip
    assert happened <= set(found["events"])

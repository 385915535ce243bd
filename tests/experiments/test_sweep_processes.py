"""`kill -9` at random moments, and two processes at once: nothing that ended is lost or done twice."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna", reason="sweeps need the `search` extra")

SCRIPT = Path(__file__).with_name("searching.py")
COUNT = {"sweep": 5, "study": 4}
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, which this system does not"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script saw, all of it in one process, whose imports take longer than its work."""
    command = [sys.executable, str(SCRIPT), str(tmp_path_factory.mktemp("jobs"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("job", COUNT)
def test_kills_change_nothing_that_is_found(told: dict[str, Any], job: str) -> None:
    found = told[f"compared {job}"]
    assert found["kills"] >= 3
    assert len(found["calm"]) == COUNT[job]
    assert found["killed"] == found["calm"]
    ended = re.findall(r"^trial (\d+) of 5: (?:validation|failed)|/(\S+): accuracy", found["news"], re.MULTILINE)
    assert len(ended) <= COUNT[job] + found["kills"]  # only what a kill met between the news and the file is said twice


@pytest.mark.parametrize("job", COUNT)
def test_two_processes_share_the_work(told: dict[str, Any], job: str) -> None:
    found = told[f"together {job}"]
    assert found["states"] == [0, 0]
    assert len(found["found"]) == COUNT[job]
    ending = re.compile(r"^trial (\d+) of 5: validation|, (\S+): accuracy", re.MULTILINE)
    ended = [ending.findall(news) for news in found["news"]]
    assert all(ended), "one process did nothing"
    assert len(ended[0] + ended[1]) == len(set(ended[0] + ended[1])) == COUNT[job]

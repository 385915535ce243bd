"""`kill -9` at random moments: no finished cell is run again, and what is found is the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("comparing.py")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, which this system does not")
def test_kills_change_nothing_and_repeat_nothing(tmp_path):
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] >= 2
    assert told["again"] == []
    assert len(told["calm"]) == 7
    assert told["killed"] == told["calm"]
    assert told["left"] == ["locks"]

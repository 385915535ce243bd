"""`kill -9` at ten random moments, then resume: the bytes of a run that nothing disturbed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killing.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes, which this system does not have")
@pytest.mark.slow
def test_ten_kills_change_no_byte(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path), "1", "2", "3"]  # steps from checkpoint to checkpoint
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    for found in json.loads(done.stdout.splitlines()[-1]):
        calm, restless = found["prompts"]
        assert restless == calm
        assert found["steps"] == [list(range(1, 25))] * 2  # every step logged once, whatever was done twice
        assert len(found["moments"]) == 10
        assert any(found["moments"]), "no kill came after a step"

"""Benchmarks are scripts beside the package: their modules, and a way to run one in its tiny form."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
FORKED = Path(__file__).with_name("forked.py")
sys.path.append(str(FOLDER))


@pytest.fixture
def tiny(tmp_path):
    """Runs one benchmark on a tiny backbone and made-up data; returns its figures and its page."""

    def run(name, *flags):
        script = FOLDER / "run.py" if name == "invariance" else FORKED  # one form starts real processes
        command = [sys.executable, str(script), name, "--tiny", "--out", str(tmp_path), *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(done.stderr[-4000:], file=sys.stderr)  # shown where the test fails: it says which cells were not measured
        assert done.returncode == 0
        page = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
        return json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))["figures"], page

    return run

"""`import softprompt`, `softprompt --help` and `--version` are quick because they load no heavy library."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "transformers",
    "sklearn",
    "scipy",
    "pandas",
    "datasets",
    "peft",
    "matplotlib",
    "accelerate",
    "optuna",
    "pydantic",
    "fastapi",
    "uvicorn",
    "prometheus_client",
)
LIMIT_S = 0.3
# Processor time, so that a busy machine does not count; a slow one, as the cores of a shared one are, is given slack.
SLACK = 2.0

IMPORT = "import softprompt"
COMMAND = """
import contextlib, io, sys
from softprompt.cli.app import main
with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
    sys.argv = ["softprompt", "{flag}"]
    main()
assert "{shown}" in shown.getvalue(), shown.getvalue()
"""
HELP, VERSION = COMMAND.format(flag="--help", shown="train"), COMMAND.format(flag="--version", shown="softprompt ")
QUICK = pytest.mark.parametrize("code", [IMPORT, HELP, VERSION], ids=["import", "help", "version"])
MEASURE = """
import json, sys, time
start = time.process_time()
{code}
seconds = time.process_time() - start
print(json.dumps({{"seconds": seconds, "modules": sorted(m for m in sys.modules if "." not in m)}}))
"""


def measured(code: str) -> dict[str, object]:
    """Run `code` in a fresh interpreter; return its processor seconds and the top-level modules it left loaded."""
    environment = {**os.environ, "COLUMNS": "100", "TERM": "dumb"}
    command = [sys.executable, "-c", MEASURE.format(code=code)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


@QUICK
def test_no_heavy_library_is_loaded(code: str) -> None:
    assert not set(HEAVY) & set(measured(code)["modules"])


@QUICK
def test_it_takes_less_than_a_blink(code: str) -> None:
    best = min(float(measured(code)["seconds"]) for _ in range(5))
    assert best < LIMIT_S * SLACK, f"the best of five took {best:.2f} s of processor time"

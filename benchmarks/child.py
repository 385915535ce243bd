"""A function of one of these modules in a fresh process: its memory is its own, and its end is not ours."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


class ChildError(RuntimeError):
    """The process ended without a result; most often the machine had no memory left for it."""


def call(module: str, function: str, **arguments: Any) -> Any:
    """Return what `module.function(**arguments)` gives in a process of its own; both ways as JSON."""
    command = [sys.executable, str(Path(__file__)), module, function]
    done = subprocess.run(command, input=json.dumps(arguments), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ChildError(f"{module}.{function} ended with code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    module, function = sys.argv[1:]
    found = getattr(import_module(module), function)(**json.load(sys.stdin))
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()

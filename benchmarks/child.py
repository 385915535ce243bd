"""A function of one of these modules in a fresh process: its memory is its own, and its end is not ours."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

NO_MEMORY = 137
"""Our exit code when an allocation was refused; SIGKILL is what Linux sends where it promised too much."""


class ChildError(RuntimeError):
    """The process ended without a result."""


class OutOfMemoryError(ChildError):
    """The machine had no memory left for the process."""


def call(module: str, function: str, **arguments: Any) -> Any:
    """Return what `module.function(**arguments)` gives in a process of its own; both ways as JSON."""
    command = [sys.executable, str(Path(__file__)), module, function]
    done = subprocess.run(command, input=json.dumps(arguments), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        kind = OutOfMemoryError if done.returncode in (-signal.SIGKILL, NO_MEMORY) else ChildError
        raise kind(f"{module}.{function} ended with code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def timed(module: str, function: str, **arguments: Any) -> tuple[Any, dict[str, float]]:
    """Return what `call` gives, and what the whole process took: imports, loading and all."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    found = call(module, function, **arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return found, {"seconds": time.monotonic() - began, "cpu seconds": cpu}


def main() -> None:
    _offer_itself()
    module, function = sys.argv[1:]
    try:
        found = getattr(import_module(module), function)(**json.load(sys.stdin))
    except RuntimeError as error:
        if not any(words in str(error) for words in ("allocate memory", "out of memory")):
            raise
        sys.exit(NO_MEMORY)
    print("\n" + json.dumps(found))


def _offer_itself() -> None:
    """Where memory runs out, Linux is to end this process and no other."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


if __name__ == "__main__":
    main()

"""A script, run as `benchmarks/run.py` is: what a benchmark starts in processes of their own are forks of this one.

Everything is imported once, so that a process costs milliseconds. It remains one: its memory, its exit code and what
it changes are its own.
"""

from __future__ import annotations

import gc
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import child
import torch

with suppress(ImportError):
    import peft  # noqa: F401 - imported here, once for all forks

LOOK = 0.002
torch.set_num_threads(1)  # a fork keeps no other thread


class Fork:
    """A process that does some work and ends; it can be watched and ended as one of `subprocess.Popen`."""

    def __init__(self, work: Callable[[], None], out: int | None = None, err: int | None = None) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            _end(work, out, err)

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def wait(self, timeout: float = float("inf")) -> int:
        until = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("a fork", timeout)
            time.sleep(LOOK)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _end(work: Callable[[], None], out: int | None, err: int | None) -> None:
    """Do the work in a fork that has just begun, and leave with the code that a fresh process would leave with."""
    code = 1
    try:
        for number, place in ((1, out), (2, err)):
            if place is not None:
                os.dup2(place, number)
        work()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - a fork has nobody else to tell
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def call(module: str, function: str, **arguments: Any) -> Any:
    """As `child.call`: what it would run in a fresh process, a fork runs."""

    def work() -> None:
        sys.argv[1:], sys.stdin = [module, function], io.StringIO(json.dumps(arguments))
        child.main()

    with tempfile.TemporaryFile("w+", encoding="utf-8") as out:
        code = Fork(work, out.fileno()).wait()
        if code:
            raise child.ChildError(f"{module}.{function} ended with code {code}")
        out.seek(0)
        return json.loads(out.read().splitlines()[-1])


def popen(command: list[str], stdout: IO[bytes] | int, stderr: IO[bytes] | int) -> Fork:
    """As `subprocess.Popen` of a command of ours."""
    assert command[:3] == [sys.executable, "-m", "softprompt"], command

    def work() -> None:
        sys.argv = command[2:]
        import_module("softprompt.cli.app").main()

    with open(os.devnull, "wb") as nowhere:
        places = [(nowhere if each == subprocess.DEVNULL else each).fileno() for each in (stdout, stderr)]
        return Fork(work, *places)


if __name__ == "__main__":
    child.call = call
    for name in ("kills", "serving_server"):
        vars(import_module(name))["subprocess"] = SimpleNamespace(**{**vars(subprocess), "Popen": popen})
    gc.freeze()  # what is there now is no fork's to look through
    import_module("run").main()

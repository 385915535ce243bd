"""`softprompt serve` as a process of its own, and what can be seen of it from outside."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from urllib.error import URLError
from urllib.request import urlopen

from child import call
from subjects import GPT2, TINY, Setting

HOST = "127.0.0.1"
PATIENCE = 300.0
LOOK = 0.005
"""Seconds between two looks at the log and at `/readyz`."""


class ServerError(RuntimeError):
    """The server did not come up, or ended."""


class Server:
    """A running server; leaving the block ends it as an operator would.

    Attributes:
        port: where it listens.
        ready_after: seconds from the line in its log that says that the backbone is loaded until `/readyz` says yes.
    """

    def __init__(self, backbone: str, dtype: str, store: Path, *flags: str) -> None:
        self._log = Path(tempfile.mkstemp(prefix="serve-", suffix=".log")[1])
        self._command = [
            sys.executable, "-m", "softprompt", "serve", "--backbone", backbone, "--dtype", dtype, "--device", "cpu",
            "--store", str(store), "--host", HOST, "--port", "0", *flags,
        ]  # fmt: skip
        self.port, self.ready_after, self._last = 0, 0.0, ""

    def __enter__(self) -> Server:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        try:
            self._wait("loaded ")
            loaded = time.monotonic()
            self.port = int(self._wait(r"listening on http://[^:]+:(\d+)"))
            while not self._ready():
                time.sleep(LOOK)
            self.ready_after = time.monotonic() - loaded
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has written so far, also when it has ended."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else self._last

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def memory(self) -> float:
        """Memory of its own in MiB: what is mapped from files, as weights may be, is not counted."""
        return _field(self.pid, "RssAnon")

    def stop(self) -> int:
        """End it with SIGTERM, and harshly if that does not help; return its exit code."""
        if self.alive:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._last = self.log
        self._log.unlink(missing_ok=True)
        return self._process.wait()

    def _wait(self, pattern: str) -> str:
        """Wait for a line in its log; return the first group of the pattern, if it has one."""
        until = time.monotonic() + PATIENCE
        while (found := re.search(pattern, self.log)) is None:
            if not self.alive or time.monotonic() > until:
                raise ServerError(f"the server did not say `{pattern}`; its log ends:\n{self.log[-2000:]}")
            time.sleep(LOOK)
        return found.group(found.lastindex or 0)

    def _ready(self) -> bool:
        if not self.alive:
            raise ServerError(f"the server ended; its log:\n{self.log[-2000:]}")
        try:
            with urlopen(f"http://{HOST}:{self.port}/readyz", timeout=10) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False


def resident(pid: int) -> float:
    """The resident memory of a process in MiB."""
    return _field(pid, "VmRSS")


def _field(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise ServerError(f"process {pid} has no `{name}`")


def loadable(setting: Setting, place: Path) -> str:
    """What `softprompt serve` is to load; a backbone that is built here is put into a folder first."""
    if not setting.backbone.startswith(TINY) and setting.backbone != GPT2:
        return setting.backbone
    folder = place / "backbone"
    if not folder.exists():
        call("kills", "save_backbone", folder=str(folder), **setting.plain())
    return str(folder)

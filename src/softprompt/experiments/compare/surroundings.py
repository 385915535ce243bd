"""What a figure depends on besides the settings: code, machine, versions. No host name, no path."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import softprompt

PACKAGES = ("torch", "transformers", "tokenizers", "peft", "numpy", "scikit-learn", "sentence-transformers", "setfit")


def surroundings() -> dict[str, Any]:
    """Return the commit or version of softprompt, the machine and the libraries' versions, as plain JSON.

    >>> sorted(surroundings())
    ['commit', 'machine', 'versions']
    """
    found = {name: installed(name) for name in PACKAGES}
    return {
        "commit": commit(),
        "machine": {
            "cpu": processor(),
            "cores": os.cpu_count(),
            "memory GiB": _memory(),
            "system": f"{platform.system()} {platform.machine()}",
            **_gpu(),
        },
        "versions": {
            "softprompt": softprompt.__version__,
            "python": platform.python_version(),
            **{name: each for name, each in found.items() if each},
        },
    }


def commit() -> str:
    """Return the commit of the code, `+dirty` where its files differ from it; without one, its version."""
    source = Path(softprompt.__file__).parent
    short = _git(source, "rev-parse", "--short", "HEAD") if _git(source, "ls-files", "__init__.py") else ""
    return short + ("+dirty" if _git(source, "status", "--porcelain", "--", ".") else "") or softprompt.__version__


def _git(folder: Path, *words: str) -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    done = subprocess.run([git, *words], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    return done.stdout.strip() if done.returncode == 0 else ""


def processor() -> str:
    """Return the processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _gpu() -> dict[str, str]:
    """The GPU's name, where torch was imported and sees one."""
    torch: Any = sys.modules.get("torch")
    return {"gpu": torch.cuda.get_device_name()} if torch is not None and torch.cuda.is_available() else {}


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def installed(name: str) -> str | None:
    """Return the version of a package that is installed; None where it is not."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None

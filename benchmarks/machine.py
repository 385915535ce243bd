"""What a figure depends on besides the code: the machine, the versions, the commit. No host name, no path."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from softprompt.experiments.compare.surroundings import installed, processor

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("softprompt", "torch", "transformers", "tokenizers", "peft", "numpy", "scikit-learn", "fastapi", "uvicorn")


def describe(dtype: str, device: str = "cpu") -> dict[str, object]:
    """The machine as a benchmark's process sees it."""
    import torch

    graphics = {} if device == "cpu" else {"device": torch.cuda.get_device_name(device)}

    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "dtype": dtype,
        **graphics,
        "versions": {"python": platform.python_version(), **{name: installed(name) for name in PACKAGES}},
    }


def commit() -> str:
    """The commit that is measured, `+dirty` if the tree differs from it (results aside)."""
    short = _git("rev-parse", "--short", "HEAD") or "none"
    return short + ("+dirty" if _git("status", "--porcelain", "--", ".", ":!results") else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()

"""Where softprompt keeps things: one home for the store, the cache and the runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def home() -> Path:
    """Return `SOFTPROMPT_HOME` if it is set, else the platform's data folder for softprompt."""
    asked = os.environ.get("SOFTPROMPT_HOME")
    return Path(asked).expanduser() if asked else Path(platformdirs.user_data_dir("softprompt", appauthor=False))


def store_dir() -> Path:
    """Return the folder of the default prompt store."""
    return home() / "store"


def cache_dir() -> Path:
    """Return the folder of what can be made again: converted backbones, fingerprints."""
    return home() / "cache"


def runs_dir() -> Path:
    """Return the folder that holds one folder per training run."""
    return home() / "runs"

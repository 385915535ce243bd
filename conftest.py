"""Tests and doctests touch nothing of yours: an empty home, and no network.

`SOFTPROMPT_TEST_HOME` names a home that is kept between runs, so that the packaged backbone is converted only once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

_KEPT = os.environ.get("SOFTPROMPT_TEST_HOME")
_HOME = Path(_KEPT) if _KEPT else Path(tempfile.mkdtemp(prefix="softprompt-tests-"))

# Set before anything is imported: huggingface_hub reads its variables only once.
os.environ["SOFTPROMPT_HOME"] = str(_HOME)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def pytest_unconfigure() -> None:
    """Take the borrowed home away again."""
    if not _KEPT:
        shutil.rmtree(_HOME, ignore_errors=True)

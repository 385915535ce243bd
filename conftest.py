"""Tests and doctests touch nothing of yours: an empty home, and no network.

`SOFTPROMPT_TEST_HOME` names a home that is kept between runs, so that the packaged backbone is converted only once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest

_KEPT = os.environ.get("SOFTPROMPT_TEST_HOME")
_HOME = Path(_KEPT) if _KEPT else Path(tempfile.mkdtemp(prefix="softprompt-tests-"))

# Set before anything is imported: huggingface_hub reads its variables only once.
os.environ["SOFTPROMPT_HOME"] = str(_HOME)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files of slow tests first and short files last, so that the processes of `make test` end together."""
    files = Counter(item.path for item in items)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, -files[item.path]))  # a stable sort: files stay as they are


def pytest_unconfigure() -> None:
    """Take the borrowed home away again."""
    if not _KEPT:
        shutil.rmtree(_HOME, ignore_errors=True)

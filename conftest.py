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
    """Put files of slow tests first, those that may take longest before others, and short files last.

    So the processes of `make test` and `make test-slow` end together.
    """
    files = Counter(item.path for item in items)
    slow = dict[Path, float]()
    for item in items:
        if item.get_closest_marker("slow"):
            limit = item.get_closest_marker("timeout")
            slow[item.path] = max(slow.get(item.path, 0.0), limit.args[0] if limit and limit.args else 1.0)
    items.sort(key=lambda item: (-slow.get(item.path, 0.0), -files[item.path]))  # stable: files stay as they are


def pytest_unconfigure() -> None:
    """Take the borrowed home away again."""
    if not _KEPT:
        shutil.rmtree(_HOME, ignore_errors=True)

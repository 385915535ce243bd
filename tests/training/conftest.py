"""A tiny backbone and a toy task."""

import pytest

from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows


@pytest.fixture(scope="session")
def backbone():
    return tiny_backbone("gemma3")


@pytest.fixture(scope="session")
def task():
    splits = {"train": toy_rows(200), "validation": toy_rows(60, 1), "test": toy_rows(80, 2)}
    return load_task(splits, name="toy")

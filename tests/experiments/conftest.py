"""A tiny backbone, a toy task, and settings that train in no time."""

from __future__ import annotations

import pytest

from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows
from softprompt.training.config import TrainConfig

SHORT = {"steps": 2, "batch_size": 4, "virtual_tokens": 3, "validate_every": 2, "validation_rows": 8}


@pytest.fixture(scope="session")
def backbone():
    return tiny_backbone("llama")


@pytest.fixture(scope="session")
def task():
    splits = {"train": toy_rows(24), "validation": toy_rows(8, 1), "test": toy_rows(10, 2)}
    return load_task(splits, name="toy")


@pytest.fixture
def short():
    return TrainConfig(**SHORT)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home, and so a folder for runs, of the test's own."""
    monkeypatch.setenv("SOFTPROMPT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"

"""Prompts of a few numbers, and a store of their own for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from softprompt.backbones.fingerprint import Fingerprint
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.store.store import PromptStore
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.template import Template

Make = Callable[..., SoftPrompt]


def tiny_prompt(value: float = 1.0, *, tokens: int = 3, **changes: object) -> SoftPrompt:
    known = {
        "tensors": {"input": torch.full((tokens, 4), float(value))},
        "template": Template("{bos}{soft}Text: {text}\nLabel:"),
        "readout": LabelWords.from_labels(["ham", "spam"]),
        "fingerprint": Fingerprint("arch", "tok", "weights", "module"),
        "provenance": {"task": "mail", "backbone": "tiny", "metrics": {"accuracy": 0.9}},
    }
    return SoftPrompt(**{**known, **changes})


@pytest.fixture
def make() -> Make:
    return tiny_prompt


@pytest.fixture
def store(tmp_path: Path) -> PromptStore:
    return PromptStore(tmp_path / "store")

"""Tiny backbones behind the names that a user types, a home of their own for each test, and a small data set."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from softprompt.backbones import backbone as loading
from softprompt.backbones.encoder import SentenceEncoder
from softprompt.cli.app import app
from softprompt.errors import MissingExtraError
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.store.store import PromptStore
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_backbone

Call = Callable[..., Result]
REAL = loading.load_backbone

NAMES = {"gemma-3-270m": ("gemma3", 0), "org/retrained": ("gemma3", 1), "org/other": ("gpt2", 0)}
WORDS = {"pos": ("good", "great", "wonderful", "warm"), "neg": ("bad", "awful", "dull", "worse")}


@cache
def tiny(name: str) -> Any:
    family, seed = NAMES[name]
    made = tiny_backbone(family, seed=seed)
    made.name = name
    return made


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, a folder of the test's own, and tiny backbones under the names of large ones."""
    monkeypatch.setattr(
        loading, "load_backbone", lambda source, **how: tiny(source) if source in NAMES else REAL(source, **how)
    )
    monkeypatch.setenv("SOFTPROMPT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def call() -> Call:
    """Run the command with some words; standard input may be given as bytes."""

    def run(*words: object, stdin: bytes = b"") -> Result:
        texts = [str(word) for word in words]
        return CliRunner().invoke(app, texts, input=stdin, env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})

    return run


@pytest.fixture
def ok(call: Call) -> Callable[..., str]:
    """The same for what must go well; returns what it prints."""

    def run(*words: object, stdin: bytes = b"") -> str:
        result = call(*words, stdin=stdin)
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def reviews(count: int, offset: int = 0) -> str:
    """CSV of `count` short reviews, the two labels in turn."""
    lines = ["id,review,sentiment"]
    for i in range(offset, offset + count):
        label = ("pos", "neg")[i % 2]
        lines.append(f"{i},a {WORDS[label][i % 4]} film number {i},{label}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with train, validation and test."""
    made = tmp_path / "reviews"
    made.mkdir()
    for split, count, offset in (("train", 24, 0), ("validation", 8, 24), ("test", 10, 32)):
        (made / f"{split}.csv").write_text(reviews(count, offset), encoding="utf-8")
    return made


def tiny_prompt(name: str = "gemma-3-270m", pattern: str = "{bos}{soft}Text: {text}\nLabel:", **changes: Any) -> Any:
    """An untrained prompt of three tokens for a tiny backbone."""
    import torch

    backbone = tiny(name)
    rows = torch.randn(3, backbone.embedding_size, generator=torch.Generator().manual_seed(5))
    known = {
        "tensors": {"input": rows},
        "template": Template(pattern),
        "readout": LabelWords.from_labels(["ham", "spam"]),
        "fingerprint": backbone.fingerprint,
        "provenance": {"backbone": name},
    }
    return SoftPrompt(**{**known, **changes})


@pytest.fixture
def kept(home: Path) -> PromptStore:
    """A store with `spam` and `mood` (three labels)."""
    store = PromptStore()
    store.put(tiny_prompt(), "spam")
    moods = LabelWords.from_labels(["negative", "neutral", "positive"])
    store.put(tiny_prompt(readout=moods, temperature=2.0), "mood")
    return store


@pytest.fixture
def make() -> Callable[..., SoftPrompt]:
    return tiny_prompt


@pytest.fixture
def csv_of() -> Callable[..., str]:
    return reviews


@pytest.fixture
def real_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names mean what they say again."""
    monkeypatch.setattr(loading, "load_backbone", REAL)


def gone() -> None:
    raise MissingExtraError('the sentence encoder is not installed: pip install "softprompt[demo]"')


@pytest.fixture
def without_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports do without the packaged sentence encoder, which takes its time."""
    monkeypatch.setattr(SentenceEncoder, "packaged", gone)

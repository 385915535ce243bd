"""`softprompt prompts import` and `export` know other tools' formats."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from softprompt.backbones.backbone import Backbone
from softprompt.cli.prompts import app
from softprompt.errors import ConfigError, UnknownNameError
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.store.store import PromptStore
from softprompt.tasks.free_text import Text
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_backbone


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    return tiny_backbone("llama")


@pytest.fixture
def store(tmp_path: Path, tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> PromptStore:
    monkeypatch.setenv("SOFTPROMPT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("softprompt.backbones.backbone.load_backbone", lambda name, dtype: tiny)
    return PromptStore()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    out = io.BytesIO()
    np.save(out, np.ones((3, 48), "f4"))
    (tmp_path / "rows.npy").write_bytes(out.getvalue())
    return tmp_path / "rows.npy"


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})


def run(*words: object) -> str:
    result = call(*words)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_rows_of_another_tool_come_in_with_labels_or_as_text(store: PromptStore, rows: Path) -> None:
    assert "3 virtual tokens" in run(
        "import", rows, "mail", "--backbone", "x", "--label", "ham", "--label", "spam=junk"
    )
    found = store.get("mail")
    assert found.template.pattern == "{soft}{bos}Text: {text}\nLabel:"
    assert (found.readout.labels, found.readout.words) == (("ham", "spam"), (" ham", " junk"))
    assert list(found.provenance) == ["imported from prompt-tuning (Google)"]
    run("import", rows, "story", "--backbone", "x", "--template", "{soft}{text}", "--max-new-tokens", "9")
    assert store.get("story").readout == Text(9, lead=" ")
    torch.save(torch.ones(3, 48), rows.with_name("decoder.pt"))  # noqa: TID251 - what others wrote
    run(
        "import", rows.parent, "again", "--format", "tgis", "--backbone", "x", "--text", "body", "--max-new-tokens", "9"
    )
    assert store.get("again").template.pattern == "{soft}{bos}Body: {body}\nLabel:"


def test_what_an_import_lacks_is_said(store: PromptStore, rows: Path) -> None:
    cases = {
        "rows.npy` is of Google's prompt-tuning; say with --backbone": [],
        "give a readout": ["--backbone", "x"],
        "`--label` and `--max-new-tokens` were given": ["--backbone", "x", "--label", "a", "--max-new-tokens", "3"],
    }
    for message, words in cases.items():
        with pytest.raises(ConfigError, match=message):
            raise call("import", rows, "mail", *words).exception
    with pytest.raises(UnknownNameError, match="unknown format `googel`; did you mean `google`"):
        raise call("import", rows, "mail", "--format", "googel").exception
    with pytest.raises(ConfigError, match="`--max-new-tokens` was given, and a folder of PEFT is read by label words"):
        raise call(
            "import", rows.parent, "mail", "--format", "peft", "--backbone", "x", "--max-new-tokens", "3"
        ).exception
    assert not store.list()


def test_a_prompt_goes_out_for_another_engine(store: PromptStore, tiny: Backbone, tmp_path: Path) -> None:
    tensors, template = {"input": torch.ones(3, 48)}, Template("{soft}{text}")
    store.put(SoftPrompt(tensors, template, Text(4), tiny.fingerprint, provenance={"backbone": "tiny"}), "story")
    assert run("export", "story", tmp_path / "out", "--for", "vllm", "--field", "text=a=b") == f"wrote {tmp_path}/out\n"
    assert json.loads((tmp_path / "out" / "completion.json").read_text())["max_tokens"] == 4
    run("export", "story", tmp_path / "sg", "--for", "sglang")
    assert (tmp_path / "sg" / "generate.json").exists()
    cases = {
        "`--peft` and `--for vllm` write different folders; choose one": ["--peft", "--for", "vllm"],
        "`--field text` has no `=`; write name=text": ["--for", "vllm", "--field", "text"],
    }
    for message, words in cases.items():
        with pytest.raises(ConfigError, match=message):
            raise call("export", "story", tmp_path / "no", *words).exception
    with pytest.raises(UnknownNameError, match="unknown engine `vlm`; did you mean `vllm`"):
        raise call("export", "story", tmp_path / "no", "--for", "vlm").exception
    store.put(SoftPrompt(tensors, template, Text(4), tiny.fingerprint), "lost")
    with pytest.raises(ConfigError, match="does not say which backbone it was trained on; give --backbone"):
        raise call("export", "lost", tmp_path / "no", "--for", "vllm").exception
    assert not (tmp_path / "no").exists()

"""A folder for `lm-eval`: what stands in it, and that lm-eval itself adds up the log-probabilities that we do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import softprompt as sp
from softprompt.cli.prompts import app
from softprompt.errors import ConfigError, DataError, IncompatiblePromptError
from softprompt.serving.lm_eval import export_lm_eval
from softprompt.store.peft import import_peft
from softprompt.tasks.free_text import Text
from softprompt.testing import conformance
from softprompt.testing.tiny import tiny_backbone

LM_EVAL = shutil.which("lm_eval")
USUAL = "{bos}{soft}Text: {text}\nLabel:"


@pytest.fixture(scope="module")
def llama() -> sp.Backbone:
    return tiny_backbone("llama")


def prompt_of(backbone: sp.Backbone, readout: Any = "trie", pattern: str = USUAL) -> sp.SoftPrompt:
    known = conformance.prompt(backbone, 5)
    asked = conformance.READOUTS[readout] if isinstance(readout, str) else readout
    return replace(known, template=sp.Template(pattern), readout=asked, provenance={"backbone": "tiny"})


def examples(prompt: sp.SoftPrompt, count: int = 12) -> list[sp.Example]:
    labels = prompt.readout.labels or ("fine",)
    return [sp.Example(row, labels[i % len(labels)]) for i, row in enumerate(conformance.rows(count))]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


# --- what stands in the folder --------------------------------------------------------------------------------------


def test_the_task_and_its_rows(llama: sp.Backbone, tmp_path: Path) -> None:
    prompt = prompt_of(llama)
    told = export_lm_eval(prompt, llama, tmp_path / "out", examples(prompt), name="Mood@v2")
    assert (told.task, told.rows, told.other) == ("softprompt_mood_v2", 12, 0)
    task = yaml.safe_load((tmp_path / "out" / "task.yaml").read_text(encoding="utf-8"))
    assert (task["task"], task["output_type"], task["num_fewshot"]) == (told.task, "multiple_choice", 0)
    assert task["dataset_kwargs"] == {"data_files": {"test": "rows.jsonl"}}
    assert task["target_delimiter"] == ""
    end = llama.tokenizer.decode([llama.eos])  # behind words that begin another label's
    assert task["doc_to_choice"][:4] == [f" spam{end}", f" spam free{end}", " spam free prize", " ham"]
    assert lines(tmp_path / "out")[1] == {"context": " a gripping film\nLabel:", "gold": 1}
    assert import_peft(tmp_path / "out", llama).digest == prompt.digest


def test_contexts_become_the_tokens_of_training(llama: sp.Backbone, tmp_path: Path) -> None:
    prompt = prompt_of(llama, pattern="{soft}{text}{sep} Label:")
    prompt = replace(prompt, template=sp.Template(prompt.template.pattern, max_tokens=16))
    export_lm_eval(prompt, llama, tmp_path / "out", examples(prompt))
    model, bound = sp.PromptedModel(llama), sp.PromptedModel(llama).bind(prompt)
    expected = [model.encode(example.fields, bound) for example in examples(prompt)]
    found = [llama.tokenizer.encode(line["context"], add_special_tokens=False) for line in lines(tmp_path / "out")]
    assert [tuple(ids) for ids in found] == [row.ids for row in expected]
    assert any(row.cut for row in expected)


def test_rows_that_become_other_tokens_are_told(llama: sp.Backbone, tmp_path: Path) -> None:
    prompt = prompt_of(llama, "single", "{soft}{text}\n")
    told = export_lm_eval(prompt, llama, tmp_path / "out", examples(prompt))
    assert told.other == told.rows == 12
    assert "Of 12 of them lm-eval makes other tokens" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_text_is_written_alone(llama: sp.Backbone, tmp_path: Path) -> None:
    prompt = prompt_of(llama, Text(7, stop=("\n",)))
    export_lm_eval(prompt, llama, tmp_path / "out", [sp.Example({"text": "x"}, "a", ("a", "b "))])
    task = yaml.safe_load((tmp_path / "out" / "task.yaml").read_text(encoding="utf-8"))
    assert task["output_type"] == "generate_until"
    assert task["generation_kwargs"] == {"until": ["\n"], "max_gen_toks": 7, "do_sample": False}
    assert lines(tmp_path / "out") == [{"context": " x\nLabel:", "target": ["a", "b"]}]
    told = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "--batch_size 1\n" in told
    assert re.search(r"must\s+stay 1: lm-eval pads text that is to be written on the left", told)


@pytest.mark.parametrize(
    ("readout", "said"),
    [
        ("single", "each label is one token"),
        ("trie", "some answers may differ"),
        ("full", "over the whole vocabulary, as softprompt does"),
    ],
)
def test_the_readme_says_what_the_numbers_are(readout: str, said: str, llama: sp.Backbone, tmp_path: Path) -> None:
    words = sp.LabelWords(("a", "b"), ("a", "b")) if readout == "single" else readout
    export_lm_eval(prompt_of(llama, words), llama, tmp_path / "out")
    told = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert said in told
    assert "Put the rows into `rows.jsonl`" in told
    assert "output rows and its tokenizer" not in told
    assert not (tmp_path / "out" / "rows.jsonl").exists()


def test_a_model_that_would_be_resized_is_told(tmp_path: Path) -> None:
    padded = tiny_backbone("llama", vocab_size=320)
    export_lm_eval(prompt_of(padded), padded, tmp_path / "out")
    told = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "has 320 output rows and its tokenizer 300 tokens: lm-eval resizes" in told


def test_what_cannot_go_there(llama: sp.Backbone, tmp_path: Path) -> None:
    prompt = prompt_of(llama)
    with pytest.raises(DataError, match="row 0 has the label `eggs`, and the prompt knows spam, spam free, "):
        export_lm_eval(prompt, llama, tmp_path / "out", [sp.Example({"text": "x"}, "eggs")])
    with pytest.raises(DataError, match="row 0 has no text that answers it; give it one, or take it out"):
        export_lm_eval(prompt_of(llama, Text(7)), llama, tmp_path / "out", [sp.Example({"text": "x"})])
    with pytest.raises(IncompatiblePromptError, match="the prompt cannot go to PEFT"):
        export_lm_eval(prompt_of(llama, pattern="{text}{soft}"), llama, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_command_writes_it(llama: sp.Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("softprompt.backbones.backbone.load_backbone", lambda name, dtype: llama)
    sp.PromptStore().put(prompt_of(llama, "single"), "mood")
    (tmp_path / "test.csv").write_text("text,label\na gripping film,good\ndull,bad\n", encoding="utf-8")
    words = ["export", "mood", str(tmp_path / "out"), "--for", "lm-eval", "--data", str(tmp_path / "test.csv")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.exception
    assert f"cd {tmp_path / 'out'} && lm_eval run --model hf --model_args pretrained=tiny-llama,peft=." in done.stdout
    assert [line["gold"] for line in lines(tmp_path / "out")] == [0, 1]
    with pytest.raises(ConfigError, match=r"`--data x\.csv` is for `--for lm-eval`; leave it out, or ask for that"):
        raise CliRunner().invoke(app, ["export", "mood", "out", "--data", "x.csv"]).exception  # type: ignore[misc]


# --- lm-eval itself -------------------------------------------------------------------------------------------------


def theirs(folder: Path, task: str, batch: int) -> np.ndarray:
    """The sums of log-probabilities that lm-eval finds, one a row and label."""
    settings = "pretrained=../model,peft=.,add_bos_token=False,dtype=float32"
    words = f"run --model hf --model_args {settings} --include_path . --tasks {task} --batch_size {batch} --device cpu"
    environment = {**os.environ, "HF_HOME": str(folder.parent / "hf"), "HF_DATASETS_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [str(LM_EVAL), *words.split(), "--output_path", "../found", "--log_samples"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = (folder.parent / "found").rglob("samples_*.jsonl")
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    file.unlink()
    ordered = sorted(found, key=lambda row: row["doc_id"])
    return np.array([[float(score[0]) for score in row["filtered_resps"]] for row in ordered])


@pytest.mark.slow
@pytest.mark.skipif(LM_EVAL is None, reason='lm-eval is not installed: pip install "lm-eval[hf]" peft')
@pytest.mark.parametrize("family", ["gemma3", "gpt2", "llama"])
def test_lm_eval_finds_our_log_probabilities(family: str, tmp_path: Path) -> None:
    backbone = tiny_backbone(family)
    backbone.model.save_pretrained(tmp_path / "model")
    backbone.tokenizer.save_pretrained(tmp_path / "model")
    prompt = prompt_of(backbone, "full")
    rows = examples(prompt)
    told = export_lm_eval(prompt, backbone, tmp_path / "out", rows)
    model = sp.PromptedModel(backbone)
    bound = model.bind(prompt)
    encoded = [model.encode(row.fields, bound) for row in rows]
    gold = [[bound.reading.gold(replace(row, label=label), 0) for row in rows] for label in prompt.readout.labels]
    ours = np.stack([model.measure(encoded, bound, each).numpy() for each in gold], axis=1)
    for batch in (1, 5):
        assert np.abs(theirs(tmp_path / "out", told.task, batch) - ours).max() < 1e-4

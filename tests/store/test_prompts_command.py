"""`softprompt prompts`: each verb does what its help says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from softprompt.cli.prompts import app
from softprompt.errors import ConfigError, PromptFileError, UnknownNameError
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.store.store import PromptStore
from softprompt.testing.tiny import tiny_backbone

VERBS = [
    "list", "show", "log", "tag", "untag", "diff", "verify", "gc", "remove", "reindex", "import", "export",
]  # fmt: skip


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PromptStore:
    monkeypatch.setenv("SOFTPROMPT_HOME", str(tmp_path))
    return PromptStore()


def call(*words: str) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})


def run(*words: str) -> str:
    result = call(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_shows_an_example(verb: str) -> None:
    assert f"softprompt prompts {verb}" in run(verb, "--help")


def test_list_is_a_table_or_json(store, make) -> None:
    assert run("list") == "no prompts yet; `softprompt train` makes one\n"
    store.put(make(1), "mail", tags=["prod"])
    lines = run("list").splitlines()
    assert lines[0].split() == ["name", "version", "tokens", "KB", "task", "backbone", "saved", "tags"]
    assert lines[1].split()[:3] == ["mail", "v1", "3"]
    assert lines[1].endswith("prod (v1)")
    (line,) = json.loads(run("list", "--json"))
    assert (line["name"], line["summary"]["virtual_tokens"]) == ("mail", 3)
    assert run("list", "zzz") == "no prompt has `zzz` in it\n"


def test_list_shows_what_is_broken(store, make) -> None:
    digest = store.put(make(1), "mail").digest
    (store.root / "objects" / digest[:2] / digest[2:]).write_bytes(b"")
    assert "it has only 0 bytes" in run("list")


def test_show_tells_all(store, make) -> None:
    digest = store.put(make(1), "mail").digest
    store.add_evaluation(digest, "test", {"accuracy": 0.5})
    told = json.loads(run("show", "mail", "--json"))
    assert (told["digest"], told["tensors"]) == (digest, {"input": ["float32", 3, 4]})
    assert (told["template"], told["evaluations"]) == (make(1).template.to_json(), {"test": {"accuracy": 0.5}})
    assert f"digest        {digest}" in run("show", "mail").splitlines()


def test_show_has_a_line_for_each_evaluation(store, make) -> None:
    digest = store.put(make(1), "mail").digest
    measures = [{"name": "MAE", "value": 1.25, "interval": [1, 2]}, {"name": "Pearson", "value": None}]
    for name, found in (
        ("report", {"figures": {"rows": 1200, "accuracy": 0.914}, "confusion": [[1, 2]] * 90}),
        ("stars", {"figures": {"rows": 3, "measures": measures}}),
        ("others", {"long": "x" * 200}),
    ):
        store.add_evaluation(digest, name, found)
    lines = run("show", "mail").splitlines()[-3:]
    assert sorted(lines) == [
        'evaluation    others: {"long": "' + "x" * 70 + "…",
        "evaluation    report: 1,200 rows, accuracy 0.914",
        "evaluation    stars: 3 rows, MAE 1.250",
    ]


def test_log_tag_and_untag(store, make) -> None:
    store.put(make(1), "mail")
    store.put(make(2), "mail")
    assert run("tag", "mail@v1", "prod") == "mail@prod is now mail@v1\n"
    lines = run("log", "mail").splitlines()
    assert [line.split()[0] for line in lines] == ["version", "mail@v2", "mail@v1"]
    assert lines[2].endswith("prod")
    assert [version["number"] for version in json.loads(run("log", "mail", "--json"))] == [2, 1]
    assert run("untag", "mail", "prod") == "mail has no tag prod any more\n"
    assert store.log("mail")[1].tags == ()


def test_diff_prints_fields_and_tokens(store, make) -> None:
    store.put(make(1), "mail")
    store.put(make(2, temperature=2.0), "mail")
    out = run("diff", "mail@v1", "mail@v2")
    assert "temperature: 1.0 -> 2.0\n" in out
    assert "input[0]: distance 2.0000, cosine +1.0000\n" in out
    assert json.loads(run("diff", "mail@v1", "mail@v2", "--json"))["fields"] == {"temperature": [1.0, 2.0]}
    assert run("diff", "mail", "mail@v2") == "mail and mail@v2 are the same file\n"


def test_verify_ends_in_one_where_something_is_wrong(store, make) -> None:
    digest = store.put(make(1), "mail").digest
    assert run("verify") == "all is well: 1 files, 1 versions\n"
    (store.root / "objects" / digest[:2] / digest[2:]).write_bytes(b"")
    result = call("verify")
    assert result.exit_code == 1
    assert "is damaged" in result.stdout
    assert len(json.loads(call("verify", "--json").stdout)["problems"]) == 1


def test_remove_then_gc_then_reindex(store, make) -> None:
    digest = store.put(make(1), "mail").digest
    assert run("remove", "mail@v1") == f"removed mail@v1; until the next gc it is still sha256:{digest[:12]}\n"
    size = f"{len(make(1).to_bytes()) / 1024:.1f}"
    assert run("gc", "--older-than", "0", "--dry-run") == f"would remove 1 prompts and 0 unfinished files, {size} KB\n"
    assert json.loads(run("gc", "--older-than", "0", "--json"))["objects"] == [digest]
    assert run("reindex") == "the index holds 0 names\n"


def test_a_file_goes_out_and_comes_in(store, make, tmp_path: Path) -> None:
    digest = store.put(make(1), "mail").digest
    file = tmp_path / "out.safetensors"
    assert run("export", "mail@v1", file) == f"wrote {file}\n"
    assert SoftPrompt.load(file).digest == digest
    assert run("import", file, "copy") == f"copy@v1 is sha256:{digest[:12]}, 3 virtual tokens\n"
    assert store.get("copy").digest == digest


def test_errors_are_ours_and_nothing_is_written(store, make, tmp_path: Path) -> None:
    store.put(make(1), "mail")
    (tmp_path / "bad").write_bytes(b"bad")
    with pytest.raises(PromptFileError, match="`bad` cannot be used as a prompt: it has only 3 bytes"):
        raise call("import", tmp_path / "bad", "bad").exception
    with pytest.raises(UnknownNameError, match="unknown prompt `mial`; did you mean `mail`"):
        raise call("export", "mial", tmp_path / "out").exception
    assert not (tmp_path / "out").exists()
    assert [each.name for each in store.list()] == ["mail"]


def test_a_peft_folder_needs_a_backbone(store, make, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="is a folder of PEFT; say with --backbone which one its prompt was trained on"
    ):
        raise call("import", tmp_path, "mail").exception
    store.put(make(provenance={}), "mail")
    with pytest.raises(ConfigError, match="does not say which backbone it was trained on; give --backbone"):
        raise call("export", "mail", tmp_path / "out", "--peft").exception


def test_a_peft_folder_goes_out_and_comes_in(store, make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone("gpt2")
    asked: list[str] = []
    load = "softprompt.backbones.backbone.load_backbone"
    monkeypatch.setattr(load, lambda name, dtype: asked.append(f"{name} {dtype}") or backbone)
    rows = torch.ones(3, backbone.embedding_size)
    prompt = make(tensors={"input": rows}, fingerprint=backbone.fingerprint, provenance={"backbone": {"name": "tiny"}})
    store.put(prompt, "mail")
    run("export", "mail", tmp_path / "out", "--peft")
    run("import", tmp_path / "out", "again", "--backbone", "here")
    assert asked == ["tiny fp32", "here fp32"]
    assert store.get("again").digest == prompt.digest
    (tmp_path / "out" / "prompt.safetensors").unlink()
    run(
        "import",
        tmp_path / "out",
        "bare",
        "--backbone",
        "x",
        "--text",
        "body",
        "--label",
        "ham",
        "--label",
        "spam=junk",
    )
    found = store.get("bare")
    assert found.template.pattern == "{soft}{bos}Body: {body}\nLabel:"
    assert (found.readout.labels, found.readout.words) == (("ham", "spam"), (" ham", " junk"))

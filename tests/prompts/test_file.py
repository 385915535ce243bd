"""The prompt file: equal content gives equal bytes, and everything comes back."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from softprompt.backbones.fingerprint import Fingerprint
from softprompt.errors import IncompatiblePromptError, PromptFileError, StorageError
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.template import Template

MAKE = """
import torch
from softprompt.backbones.fingerprint import Fingerprint
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.template import Template
tensors = {name: torch.arange(12.0).reshape(3, 4) for name in {"input", "encoder.input"}}
tensors["layers.10.key"] = tensors["layers.10.value"] = torch.ones(2, 3, 4, dtype=torch.bfloat16)
tensors["layers.9.value"] = tensors["layers.9.key"] = torch.ones(2, 3, 4, dtype=torch.float16)
words = LabelWords.from_labels(["gut", "schlecht"])
provenance = {key: [0.1, 1e-7, {"ü": None}] for key in {"seed", "recipe", "task", "parent"}}
backbone = Fingerprint("a", "b", "c", "d")
prompt = SoftPrompt(tensors, Template("{bos}{soft}{text}"), words, backbone, provenance=provenance)
print(prompt.digest)
"""


def make(**changes: object) -> SoftPrompt:
    tensors = {"input": torch.arange(12.0).reshape(3, 4)}
    known = {
        "tensors": tensors,
        "template": Template("{bos}{soft}Text: {text}\nLabel:", max_tokens=64),
        "readout": LabelWords.from_labels(["ham", "späm"]),
        "fingerprint": Fingerprint("arch-1", "tok-1", "weights-1", "module"),
    }
    return SoftPrompt(**{**known, **changes})


def with_manifest(prompt: SoftPrompt, **changes: object) -> bytes:
    """The file of `prompt` with keys of its manifest replaced (or taken away, where `...` is given)."""
    data = prompt.to_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    manifest = {**json.loads(header["__metadata__"]["softprompt"]), **changes}
    kept = {key: value for key, value in manifest.items() if value is not ...}
    header["__metadata__"]["softprompt"] = json.dumps(kept)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def test_everything_comes_back(tmp_path: Path) -> None:
    provenance = {"task": "spam", "metrics": {"accuracy": 0.98}, "seeds": (0, 1), "parent": None}
    prompt = make(temperature=1.5, abstain=0.6, provenance=provenance, decoding={"max_new_tokens": 8})
    prompt.save(tmp_path / "any name at all")
    back = SoftPrompt.load(tmp_path / "any name at all")
    assert back.digest == prompt.digest == hashlib.sha256(prompt.to_bytes()).hexdigest()
    assert torch.equal(back.tensors["input"], prompt.tensors["input"])
    assert (back.template, back.readout, back.fingerprint) == (prompt.template, prompt.readout, prompt.fingerprint)
    assert (back.temperature, back.abstain, back.length) == (1.5, 0.6, 3)
    assert back.provenance == {**provenance, "seeds": [0, 1]} == {**prompt.provenance, "seeds": [0, 1]}
    assert back.decoding == {"max_new_tokens": 8}
    assert [path.name for path in tmp_path.iterdir()] == ["any name at all"]


def test_bytes_are_the_same_in_every_process() -> None:
    digests = set()
    for seed in ("1", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", MAKE], capture_output=True, text=True, env=environment, check=True)
        digests.add(done.stdout.strip())
    assert len(digests) == 1


def test_bytes_do_not_change_from_release_to_release() -> None:
    assert make().digest == "6fcf31c023a636f241e33c717be0feaadfe40b26056d8c75105bb8ac56ad3484"


def test_bytes_are_those_that_safetensors_writes(tmp_path: Path) -> None:
    keys = {
        f"layers.{n}.{kind}": torch.ones(2, 3, 4, dtype=torch.bfloat16) for n in (2, 10) for kind in ("key", "value")
    }
    head = {"readout.weight": torch.ones(2, 4).half(), "readout.bias": torch.ones(2)}
    prompt = make(tensors={"input": torch.rand(3, 4), **keys, **head}, provenance={"note": 'ü "\\ \t\x01\x7f '})
    prompt.save(tmp_path / "prompt")
    with safe_open(tmp_path / "prompt", "pt") as file:
        assert file.metadata().keys() == {"softprompt"}
        assert save(dict(prompt.tensors), metadata=file.metadata()) == prompt.to_bytes()


def test_features_of_the_tensors_are_required() -> None:
    prompt = make(tensors={"input": torch.ones(3, 4), "readout.weight": torch.ones(2, 4)})
    assert prompt.requires == ("learned-rows",)
    assert SoftPrompt.from_bytes(prompt.to_bytes()).requires == ("learned-rows",)


def test_optional_keys_that_are_not_known_are_kept() -> None:
    first = SoftPrompt.from_bytes(with_manifest(make(), colour={"of": "sky", "n": [1, 2.5]}))
    assert first.extra == {"colour": {"of": "sky", "n": [1, 2.5]}}
    again = SoftPrompt.from_bytes(first.to_bytes())
    assert (again.extra, again.digest) == (first.extra, first.digest)
    assert first.digest != make().digest


def test_tensors_are_copied_and_cannot_be_replaced() -> None:
    rows = torch.ones(3, 4, requires_grad=True)
    prompt = make(tensors={"input": rows})
    with torch.no_grad():
        rows.zero_()
    assert prompt.tensors["input"].sum() == 12
    assert not prompt.tensors["input"].requires_grad
    with pytest.raises(TypeError, match="does not support item assignment"):
        prompt.tensors["input"] = rows


def test_a_transposed_tensor_is_written_as_it_reads() -> None:
    rows = torch.arange(12.0).reshape(4, 3).T
    back = SoftPrompt.from_bytes(make(tensors={"input": rows}).to_bytes())
    assert torch.equal(back.tensors["input"], rows)


def test_length_of_keys_and_values_is_their_slots() -> None:
    tensors = {"layers.0.key": torch.ones(2, 5, 4), "layers.0.value": torch.ones(2, 5, 6)}
    assert make(tensors=tensors).length == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "it is of format 2; this version of softprompt reads 1"),
        ({"format": True}, "it is of format True"),
        ({"format": ...}, "it is of format None"),
        ({"requires": ["telepathy"]}, "it requires `telepathy`, which this version of softprompt does not know"),
        ({"requires": "telepathy"}, "its manifest is wrong at `requires`"),
        (
            {"tokenization": "pieces/9"},
            "its tokenisation rule is 'pieces/9'; this version of softprompt knows `pieces/1`",
        ),
        ({"template": ...}, "its manifest is wrong at `template` (field required)"),
        ({"template": {"pattern": "{soft} no field"}}, "names no field"),
        ({"template": {"pattern": "{soft}{text}", "loop": 3}}, "its manifest is wrong at `template.loop`"),
        ({"readout": {"kind": "oracle", "labels": ["a", "b"], "words": ["a", "b"]}}, "wrong at `readout.kind`"),
        ({"readout": {"kind": "label-words", "labels": [1, 2], "words": ["a", "b"]}}, "wrong at `readout.labels.0`"),
        ({"readout": {"kind": "label-words", "labels": ["a", "b"], "words": ["x", "x"]}}, "have the same words"),
        ({"fingerprint": {}}, "its manifest is wrong at `fingerprint.architecture`"),
        ({"temperature": 0}, "its manifest is wrong at `temperature`"),
        ({"abstain": 1.5}, "its manifest is wrong at `abstain`"),
        ({"provenance": []}, "its manifest is wrong at `provenance`"),
        ({"provenance": {"x": float("nan")}}, "its manifest is not plain JSON (`NaN` is not a number)"),
        ({"provenance": {"x": "\ud800"}}, "its manifest is not plain JSON"),
        ({"provenance": {"x": "y" * 600_000}}, "of at most 524,288"),
    ],
)
def test_a_manifest_that_is_not_understood_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(PromptFileError) as caught:
        SoftPrompt.from_bytes(with_manifest(make(), **changes), "x.safetensors")
    assert str(caught.value).startswith("`x.safetensors` cannot be used as a prompt: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"input": torch.full((3, 4), float("nan"))}, "12 of the 12 numbers of `input` are NaN or infinite"),
        ({"input": torch.tensor([[1.0, float("-inf")]])}, "1 of the 2 numbers of `input` are NaN or infinite"),
        ({"input": torch.ones(4)}, "the tensor `input` has shape [4]; it must be [P, D]"),
        ({"input": torch.ones(0, 4)}, "the tensor `input` has P = 0; P is 1 to 16,384"),
        ({"input": torch.ones(16_385, 1)}, "the tensor `input` has P = 16,385; P is 1 to 16,384"),
        ({"input": torch.ones(3, 4).double()}, "the tensor `input` is torch.float64; a prompt has float32"),
        ({"output": torch.ones(3, 4)}, "it has a tensor `output`, which is no site of a prompt"),
        ({"layers.01.key": torch.ones(1, 1, 1)}, "it has a tensor `layers.01.key`, which is no site"),
        ({}, "it has no virtual tokens"),
        ({"readout.weight": torch.ones(2, 4)}, "it has no virtual tokens"),
        ({"layers.1.key": torch.ones(1, 2, 3)}, "it has `layers.1.key` without `layers.1.value`"),
        ({"input": torch.ones(3, 4), "readout.bias": torch.ones(2)}, "it has `readout.bias` without `readout.weight`"),
        ({"input": torch.ones(3, 4), "readout.weight": torch.ones(5, 4)}, "`readout.weight` has 5 rows for 2 labels"),
        (
            {"layers.1.key": torch.ones(1, 2, 3), "layers.1.value": torch.ones(2, 2, 3)},
            "`layers.1.key` and `layers.1.value` have different numbers of heads",
        ),
        (
            {f"layers.{n}.{kind}": torch.ones(1, n, 3) for n in (1, 2) for kind in ("key", "value")},
            "its layers have different numbers of virtual tokens",
        ),
    ],
)
def test_tensors_that_no_prompt_has_are_refused(tensors: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(PromptFileError) as caught:
        make(tensors=tensors)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"provenance": {"x": float("inf")}}, "its provenance is not plain JSON"),
        ({"provenance": {"x": {1, 2}}}, "its provenance is not plain JSON (Object of type set"),
        ({"provenance": {"x": {1: "y"}}}, "its provenance is not plain JSON (the key 1 is not a string)"),
        ({"extra": {"format": 2}}, "`extra` holds `format`, which is a key of its own"),
        ({"temperature": -1.0}, "`temperature` is -1.0"),
        ({"abstain": 2.0}, "`abstain` is 2.0"),
        ({"requires": ("telepathy",)}, "it requires `telepathy`"),
    ],
)
def test_values_that_no_prompt_has_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(PromptFileError) as caught:
        make(**changes)
    assert message in str(caught.value)


def test_what_is_too_large_to_load_is_not_written() -> None:
    with pytest.raises(PromptFileError, match=r"what it says of itself takes .* of at most 524,288"):
        make(provenance={"x": "y" * 600_000}).to_bytes()
    with pytest.raises(PromptFileError, match=r"it would take 67,109,.* bytes of at most 67,108,864"):
        make(tensors={"input": torch.zeros(16_384, 1024)}).to_bytes()


def test_nesting_without_end_is_refused() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(PromptFileError, match="its provenance is not plain JSON"):
        make(provenance={"x": deep})
    ring: list[object] = []
    ring.append(ring)
    with pytest.raises(PromptFileError, match="holds itself"):
        make(provenance={"x": ring})


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(PromptFileError, match=r"there is no prompt file `.*nowhere`; check the path"):
        SoftPrompt.load(tmp_path / "nowhere")
    with pytest.raises(PromptFileError, match="is not a file; a prompt is one file"):
        SoftPrompt.load(tmp_path)


def test_a_file_that_may_not_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make().save(tmp_path / "p")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StorageError, match=r"cannot read `.*p`: Permission denied"):
        SoftPrompt.load(tmp_path / "p")


def test_an_oversized_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors").open("wb") as stream:
        stream.truncate(65 * 2**20)
    with pytest.raises(PromptFileError, match=r"it has 68,157,440 bytes, and a prompt has at most 67,108,864"):
        SoftPrompt.load(tmp_path / "model.safetensors")


def test_the_right_backbone_is_let_pass() -> None:
    prompt = make()
    assert prompt.check(prompt.fingerprint) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ("arch-2", "tok-2", "w", "module"),
            r"\(architecture arch-1\) and is used with `tiny` \(architecture arch-2\), anoth",
        ),
        (
            ("arch-1", "tok-2", "w", "module"),
            r"another tokenizer; use the one it was trained on, or train the prompt again",
        ),
        (("arch-1", "tok-1", "w", "caller"), "another convention for the scale of embedded tokens"),
    ],
)
def test_another_backbone_is_refused_whatever_is_allowed(given: tuple[str, ...], message: str) -> None:
    with pytest.raises(IncompatiblePromptError, match=message):
        make().check(Fingerprint(*given), allow_other_weights=True, name="tiny")


def test_other_weights_are_refused_unless_allowed_and_then_said() -> None:
    prompt, other = make(provenance={"backbone": "gemma-3-270m"}), Fingerprint("arch-1", "tok-1", "weights-2", "module")
    with pytest.raises(IncompatiblePromptError) as caught:
        prompt.check(other)
    assert str(caught.value) == (
        "the prompt was trained on `gemma-3-270m` (weights weights-1) and is used with the one (weights weights-2), "
        "other weights of the same architecture; use that one, or allow other weights: "
        "`allow_other_weights=True` or `--allow-other-weights`"
    )
    said = prompt.check(other, allow_other_weights=True)
    assert said is not None
    assert "other weights of the same architecture: allowed as asked" in said


def test_a_feature_that_the_caller_does_not_compute_is_refused() -> None:
    prompt = make(tensors={"input": torch.ones(3, 4), "readout.weight": torch.ones(2, 4)})
    with pytest.raises(IncompatiblePromptError, match="the prompt needs `learned-rows`, which this use of it"):
        prompt.check(prompt.fingerprint)
    assert prompt.check(prompt.fingerprint, features={"learned-rows"}) is None

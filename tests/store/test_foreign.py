"""Rows of Google's, IBM's and KoboldAI's tools come in as prompts that answer; what is no such file is refused."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from softprompt.backbones.backbone import Backbone
from softprompt.errors import (
    ConfigError,
    IncompatiblePromptError,
    PromptFileError,
    TemplateError,
    UnknownNameError,
)
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.store.archive import Archive
from softprompt.store.foreign import format_of, import_foreign
from softprompt.store.npy import read_npy
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_backbone

TEMPLATE = Template("{soft}{bos}{text}\nLabel:")
READOUT = LabelWords.from_labels(["ham", "spam"])


@pytest.fixture(scope="module")
def llama() -> Backbone:
    return tiny_backbone("llama")


@pytest.fixture(scope="module")
def t5() -> Backbone:
    return tiny_backbone("t5")


@pytest.fixture(scope="module")
def rows() -> Tensor:
    return torch.randn(5, 48, generator=torch.Generator().manual_seed(0))


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def kobold(members: Mapping[str, bytes], packing: int = zipfile.ZIP_LZMA) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packing) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


META = {"name": "Noir", "author": "me", "supported": "Generic 1B", "description": "dark", "n": 3}


def write(tmp_path: Path, kind: str, rows: Tensor) -> Path:
    path = tmp_path / {"google": "prompt.npy", "tgis": "decoder.pt", "kobold": "noir.zip"}[kind]
    if kind == "google":
        path.write_bytes(npy(rows.numpy()))
    elif kind == "tgis":
        torch.save(rows, path)  # noqa: TID251
    else:
        path.write_bytes(kobold({"tensor.npy": npy(rows.numpy()), "meta.json": json.dumps(META).encode()}))
    return path


def take(path: Path, backbone: Backbone, **more: Any) -> SoftPrompt:
    return import_foreign(path, backbone, **{"template": TEMPLATE, "readout": READOUT, **more})


@pytest.mark.parametrize("kind", ["google", "tgis", "kobold"])
def test_rows_come_in_and_answer_as_the_same_rows_made_here(kind: str, tmp_path, llama, rows) -> None:
    path = write(tmp_path, kind, rows)
    assert format_of(path) == kind
    prompt = take(path, llama)
    assert torch.equal(prompt.tensors["input"], rows)
    (title,) = prompt.provenance
    assert title.startswith("imported from ")
    assert prompt.provenance[title]["file"] == path.name
    ours = SoftPrompt({"input": rows}, TEMPLATE, READOUT, llama.fingerprint)
    asked = [{"text": "one"}, {"text": "two and three"}]
    model = PromptedModel(llama)
    assert model.score(asked, prompt) == model.score(asked, ours)
    assert SoftPrompt.from_bytes(prompt.to_bytes()).digest == prompt.digest


def test_koboldais_words_are_kept(tmp_path, llama, rows) -> None:
    found = take(write(tmp_path, "kobold", rows), llama, template=Template("{soft}{text}"), readout=Text(20))
    assert found.provenance == {
        "imported from KoboldAI": {
            "file": "noir.zip", "name": "Noir", "author": "me", "supported": "Generic 1B", "description": "dark",
        }
    }  # fmt: skip
    (tmp_path / "bare.zip").write_bytes(kobold({"tensor.npy": npy(rows.numpy())}, zipfile.ZIP_DEFLATED))
    assert take(tmp_path / "bare.zip", llama).provenance == {"imported from KoboldAI": {"file": "bare.zip"}}


def test_rows_for_an_encoder_decoder_stand_at_its_encoder(tmp_path, t5, rows) -> None:
    template = Template("{soft}{text}{sep}")
    prompt = take(write(tmp_path, "google", rows), t5, template=template)
    assert set(prompt.tensors) == {"encoder.input"}
    assert PromptedModel(t5).score([{"text": "one"}], prompt)[0].label in ("ham", "spam")
    torch.save(rows, tmp_path / "encoder.pt")  # noqa: TID251
    assert torch.equal(take(tmp_path, t5, template=template).tensors["encoder.input"], rows)
    with pytest.raises(IncompatiblePromptError, match=r"the rows in `decoder.pt` are for the decoder's input, and a"):
        take(write(tmp_path, "tgis", rows), t5, template=template)


def test_a_folder_of_tgis(tmp_path, llama, rows) -> None:
    path = write(tmp_path, "tgis", rows)
    assert format_of(tmp_path) == "tgis"
    assert torch.equal(take(tmp_path, llama).tensors["input"], rows)
    torch.save(rows, tmp_path / "encoder.pt")  # noqa: TID251
    with pytest.raises(PromptFileError, match=r"it has both `encoder.pt` and `decoder.pt`, and a prompt has rows at"):
        take(tmp_path, llama)
    with pytest.raises(IncompatiblePromptError, match=r"`encoder.pt` are for the encoder's input"):
        take(tmp_path / "encoder.pt", llama)
    path.unlink()
    (tmp_path / "encoder.pt").unlink()
    with pytest.raises(PromptFileError, match=r"it has neither `encoder.pt` nor `decoder.pt`"):
        take(tmp_path, llama, format="tgis")


def test_formats_are_told_from_the_first_bytes(tmp_path, rows) -> None:
    (tmp_path / "ours").write_bytes(b"anything else")
    assert format_of(tmp_path / "ours") == "softprompt"
    torch.save(rows, tmp_path / "old", _use_new_zipfile_serialization=False)  # noqa: TID251
    assert format_of(tmp_path / "old") == "tgis"
    assert format_of(tmp_path) == "peft"
    with pytest.raises(PromptFileError, match="there is no prompt file"):
        format_of(tmp_path / "nowhere")


def test_what_the_file_lacks_must_be_given(tmp_path, llama, rows) -> None:
    path = write(tmp_path, "google", rows)
    with pytest.raises(ConfigError, match=r"holds rows of prompt-tuning \(Google\) and does not say.* give a template"):
        take(path, llama, template=None)
    with pytest.raises(ConfigError, match="give a readout"):
        take(path, llama, readout=None)
    with pytest.raises(TemplateError, match=r"has no \{soft\} slot for its 5 virtual tokens"):
        take(path, llama, template=Template("{text}"))
    with pytest.raises(UnknownNameError, match="unknown format of rows `gogle`; did you mean `google`"):
        take(path, llama, format="gogle")
    with pytest.raises(IncompatiblePromptError, match=r"in `prompt.npy` have 48 numbers each and .* have 64"):
        take(path, tiny_backbone("gpt_neox"))
    with pytest.raises(PromptFileError, match="is not a file; a prompt is one file"):
        take(tmp_path, llama, format="google")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((2, 3)), "its array is of `<f8`; the rows of a prompt are <f4, <f2 or bfloat16"),
        (np.ones((2, 3), ">f4"), "its array is of `>f4`"),
        (np.ones((2, 3), "i4"), "its array is of `<i4`"),
        (np.array([[None]]), r"its array is of `\|O`"),
        (np.ones((2, 3), [("a", "f4")]), r"its header is not one that NumPy writes \(`\{'descr': \[\('a', '<f4'\)\]"),
        (np.ones(3, "f4"), r"its array has the shape \[3\]; the rows of a prompt are \[P, D\]"),
        (np.ones((2, 3, 4), "f4"), r"its array has the shape \[2, 3, 4\]"),
        (np.ones((0, 3), "f4"), r"its array has the shape \[0, 3\]"),
        (np.array([[1, np.nan]], "f4"), "1 of the 2 numbers of `the array` are NaN or infinite"),
        (np.ones((20_000, 1), "f4"), "the tensor `input` has P = 20,000; P is 1 to 16,384"),
    ],
)
def test_arrays_that_are_no_rows(array: Any, message: str, tmp_path, llama) -> None:
    (tmp_path / "bad.npy").write_bytes(npy(array))
    with pytest.raises(PromptFileError, match=message):
        take(tmp_path / "bad.npy", llama)


def test_an_array_in_columns_and_one_of_two_byte_words(rows) -> None:
    assert torch.equal(read_npy(npy(np.asfortranarray(rows.numpy())), "x"), rows)
    half = rows.bfloat16()
    words = npy(half.view(torch.int16).numpy().view("V2"))
    assert torch.equal(read_npy(words, "x"), half)
    assert torch.equal(read_npy(npy(rows.half().numpy()), "x"), rows.half())


GOOD = npy(np.ones((2, 3), "f4"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x93NUMPX" + GOOD[6:], "it does not begin as a file of NumPy"),
        (GOOD[:9], "it does not begin as a file of NumPy"),
        (GOOD[:6] + b"\x04" + GOOD[7:], "it is of version 4.0 of NumPy's format; 1.0 to 3.0"),
        (GOOD[:8] + b"\xff\xff" + GOOD[10:], "its header claims 65,535 bytes of at most 4,096"),
        (GOOD[:20], "its header claims 118 bytes"),
        (GOOD[:-1], r"its array has 23 bytes, and \[2, 3\] of <f4 24"),
        (GOOD + b"x", "its array has 25 bytes"),
        (GOOD.replace(b"(2, 3)", b"(2,-3)"), "its header is not one that NumPy writes"),
        (GOOD.replace(b"'<f4'", b"('<f4')"), "its header is not one that NumPy writes"),
    ],
)
def test_headers_that_lie(data: bytes, message: str) -> None:
    with pytest.raises(PromptFileError, match=message):
        read_npy(data, "x")


def test_a_shape_beyond_all_memory_is_refused_by_its_bytes() -> None:
    lie = GOOD.replace(b"(2, 3), }" + b" " * 14, b"(999999999, 9999999), }")
    assert len(lie) == len(GOOD)
    with pytest.raises(PromptFileError, match=r"its array has 24 bytes, and \[999999999, 9999999\] of <f4 39,999,"):
        read_npy(lie, "x")


def archive_of(members: list[tuple[str, bytes]], packing: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packing) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, packing)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (archive_of([("../tensor.npy", b"")]), r"member `\.\./tensor.npy` leads out of it; do not trust it"),
        (archive_of([("/tensor.npy", b"")]), "member `/tensor.npy` leads out of it"),
        (archive_of([("a\\tensor.npy", b"")]), r"leads out of it"),
        (archive_of([("c:tensor.npy", b"")]), r"leads out of it"),
        (archive_of([(str(n), b"") for n in range(65)]), "the archive has 65 members, and a prompt at most 64"),
        (archive_of([("tensor.npy", b"")], zipfile.ZIP_BZIP2), "is packed by method 12, not stored, deflate, lzma"),
        (archive_of([("x", bytes(70 * 2**20))], zipfile.ZIP_DEFLATED), "the archive unpacks to 73,400,320 bytes, and"),
        (archive_of([("x", b"abc")]).replace(b"abc", b"abd", 1), "it is a damaged zip archive"),
        (archive_of([("x", b"abc")])[:-5], "it is a damaged zip archive"),
        (b"PK\x03\x04" + archive_of([("x", b"abc")]), "the archive stands behind other bytes; save it again"),
        (b"Rar!", r"it is a damaged zip archive \(it does not begin as one\)"),
    ],
)
def test_archives_that_are_not_read(data: bytes, message: str) -> None:
    def read() -> None:
        archive = Archive(data, "bad.zip", ("stored", "deflate", "lzma"))
        archive.read(archive.names[0])

    with pytest.raises(PromptFileError, match=message):
        read()


def test_members_twice_encrypted_missing_or_too_large() -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = archive_of([("x", b"1"), ("x", b"2")])
    with pytest.raises(PromptFileError, match="the archive has two members of one name"):
        Archive(twice, "bad.zip")
    locked = bytearray(archive_of([("x", b"1")]))
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(PromptFileError, match="member `x` is encrypted"):
        Archive(bytes(locked), "bad.zip")
    good = Archive(archive_of([("x", b"abc")]), "good.zip")
    with pytest.raises(PromptFileError, match="the archive has no `y`; it has `x`"):
        good.read("y")
    with pytest.raises(PromptFileError, match="`x` has 3 bytes of at most 2"):
        good.read("x", 2)


def test_koboldai_files_that_are_none(tmp_path, llama, rows) -> None:
    cases = {
        "it has a member `run.py`; a soft prompt has": {"tensor.npy": npy(rows.numpy()), "run.py": b""},
        "its `meta.json` is not plain JSON": {"tensor.npy": npy(rows.numpy()), "meta.json": b'{"a":1,"a":2}'},
        "its `meta.json` is not a JSON object": {"tensor.npy": npy(rows.numpy()), "meta.json": b"[]"},
        "`meta.json` has 70,000 bytes of at most 65,536": {"tensor.npy": npy(rows.numpy()), "meta.json": b" " * 70_000},
        "cannot be used as a prompt: it does not begin as a file of NumPy": {"tensor.npy": b"x"},
    }
    for message, members in cases.items():
        (tmp_path / "bad.zip").write_bytes(kobold(members))
        with pytest.raises(PromptFileError, match=message):
            take(tmp_path / "bad.zip", llama)

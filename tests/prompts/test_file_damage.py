"""Damaged and hostile files: each is refused with one sentence, and nothing else is ever raised."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from softprompt.backbones.fingerprint import Fingerprint
from softprompt.errors import PromptFileError
from softprompt.prompts.canonical import canonical, parse
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.template import Template

PROMPT = SoftPrompt(
    {
        "input": torch.ones(2, 3),
        "layers.0.key": torch.ones(1, 2, 2).half(),
        "layers.0.value": torch.ones(1, 2, 2).half(),
    },
    Template("{bos}{soft}{text}"),
    LabelWords.from_labels(["a", "b"]),
    Fingerprint("a", "t", "w", "module"),
    provenance={"note": "ü"},
)
DATA = PROMPT.to_bytes()
SIZE = int.from_bytes(DATA[:8], "little")
HEADER: dict[str, Any] = json.loads(DATA[8 : 8 + SIZE])
BODY = DATA[8 + SIZE :]


def file_of(header: object, body: bytes = BODY) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def with_entry(site: str, **changes: object) -> bytes:
    return file_of({**HEADER, site: {**HEADER[site], **changes}})


def loads_or_is_refused(data: bytes) -> None:
    """A damaged file is either a prompt in its own right, stable from then on, or a `PromptFileError`."""
    try:
        prompt = SoftPrompt.from_bytes(data)
    except PromptFileError:
        return
    again = SoftPrompt.from_bytes(prompt.to_bytes())
    assert again.digest == prompt.digest
    assert all(bool(tensor.isfinite().all()) for tensor in prompt.tensors.values())


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_flipped_byte(place: int, mask: int) -> None:
    loads_or_is_refused(DATA[:place] + bytes([DATA[place] ^ mask]) + DATA[place + 1 :])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 8 + SIZE - 1), st.integers(0, 255)), min_size=2, max_size=5))
def test_several_bytes_of_the_header_replaced(changes: list[tuple[int, int]]) -> None:
    data = bytearray(DATA)
    for place, value in changes:
        data[place] = value
    loads_or_is_refused(bytes(data))


def test_every_truncation_is_refused() -> None:
    for length in range(len(DATA)):
        with pytest.raises(PromptFileError, match="cannot be used as a prompt"):
            SoftPrompt.from_bytes(DATA[:length])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_random_bytes_and_random_tails_are_refused(noise: bytes) -> None:
    with pytest.raises(PromptFileError):
        SoftPrompt.from_bytes(noise)
    if noise:
        with pytest.raises(PromptFileError, match="bytes follow its last tensor"):
            SoftPrompt.from_bytes(DATA + noise)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(PROMPT.to_json())), JSON_VALUES)
def test_any_json_in_any_place_of_the_manifest(key: str, value: object) -> None:
    manifest = json.dumps({**PROMPT.to_json(), key: value})
    loads_or_is_refused(file_of({**HEADER, "__metadata__": {"softprompt": manifest}}))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(["dtype", "shape", "data_offsets"]), JSON_VALUES)
def test_any_json_in_any_place_of_a_tensors_entry(key: str, value: object) -> None:
    loads_or_is_refused(with_entry("input", **{key: value}))


@settings(max_examples=200, deadline=None)
@given(JSON_VALUES)
def test_canonical_json_reads_back_as_itself(value: object) -> None:
    try:
        text = canonical(value)
    except ValueError:
        return  # a NaN or an infinity is inside
    assert canonical(parse(text)) == text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it has only 0 bytes; the file is damaged"),
        (b"\xff" * 50, "its header claims 18,446,744,073,709,551,615 bytes of at most 1,048,576"),
        ((1000).to_bytes(8, "little") + b"{}", "it ends after 10 bytes, inside its header of 1000"),
        (file_of(b"[1]"), "its header is not the JSON of a safetensors file (it does not begin with a brace)"),
        (file_of(b"{\xff}"), "its header is not the JSON of a safetensors file"),
        (file_of(b'{"a":' * 50_000), "its header is not the JSON of a safetensors file"),
        (file_of(b'{"a":1,"a":2}'), "the key `a` stands twice in one object"),
        (file_of(b'{"a":1e999}'), "`1e999` is too large a number"),
        (file_of({}), "its metadata must be the one key `softprompt`, and has none"),
        (file_of({"__metadata__": {"format": "pt"}}), "and has `format`; softprompt did not write it"),
        (file_of({"__metadata__": {"softprompt": "[]"}}, b""), "its manifest is not a JSON object"),
        (file_of({"__metadata__": {"softprompt": "{"}}, b""), "its manifest is not plain JSON"),
        (
            file_of({**HEADER, "os.system": HEADER["input"]}),
            "it has a tensor `os.system`, which is no site of a prompt",
        ),
        (with_entry("input", dtype="F64"), "the tensor `input` has dtype `F64`; a prompt has F32, BF16, F16"),
        (with_entry("input", dtype=["F32"]), "the tensor `input` has dtype"),
        (with_entry("input", shape=[6]), "the tensor `input` has shape [6]; it must be [P, D]"),
        (with_entry("input", shape=[-2, -3]), "the shape or the offsets of `input` are not lists of whole numbers"),
        (with_entry("input", shape=[True, 6]), "the shape or the offsets of `input` are not lists of whole numbers"),
        (with_entry("input", shape=[3, 3]), "the tensor `input` has 24 bytes, not those of F32 [3, 3]"),
        (with_entry("input", data_offsets=[24, 0]), "the tensor `input` has -24 bytes"),
        (with_entry("input", colour="red"), "the header's entry for `input` is not a dtype, a shape and two offsets"),
        (with_entry("layers.0.key", data_offsets=[16, 24]), "bytes shared with another tensor by `layers.0.key`"),
        (with_entry("layers.0.value", data_offsets=[40, 48]), "there is a hole before `layers.0.value`"),
        (file_of(HEADER, BODY[:-3]), "it ends 3 bytes too early; it was cut short"),
        (file_of(HEADER, BODY + b"GIF89a"), "6 bytes follow its last tensor"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, message: str) -> None:
    with pytest.raises(PromptFileError) as caught:
        SoftPrompt.from_bytes(data, "hostile")
    assert message in str(caught.value)


def test_a_feature_that_its_tensors_need_must_be_required() -> None:
    manifest = json.dumps({**PROMPT.to_json(), "requires": []})
    with pytest.raises(PromptFileError, match="its tensors need the feature `key-values`, which it does not say"):
        SoftPrompt.from_bytes(file_of({**HEADER, "__metadata__": {"softprompt": manifest}}))


def test_an_oversized_buffer_is_refused_by_its_size_alone() -> None:
    with pytest.raises(PromptFileError, match="and a prompt has at most 67,108,864; is it a model"):
        SoftPrompt.from_bytes(bytes(64 * 2**20 + 1))

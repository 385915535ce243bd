"""Thousands of malformed files of every format that is read: each is refused in words, and none costs memory.

Every mutation is seeded. Those of a file's structure must all be refused. Where a flipped bit may fall on what says
nothing (a zip's clock, the number of a note in a program), the rows that load must be the rows that were saved.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import resource
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from softprompt.backbones.fingerprint import Fingerprint
from softprompt.errors import SoftPromptError
from softprompt.prompts.header import read_header
from softprompt.prompts.manifest import read_manifest
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.store.archive import Archive
from softprompt.store.npy import read_npy
from softprompt.store.store import PromptStore
from softprompt.store.torch_file import read_torch, write_torch
from softprompt.tasks.chat import ChatTemplate
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.template import Template

ROWS = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
BACKBONE = Fingerprint("a", "t", "w", "module")
LABELS = LabelWords.from_labels(["ham", "späm"])
PROMPTS = {
    "rows": SoftPrompt({"input": ROWS}, Template("{bos}{soft}{text}", 64), LABELS, BACKBONE, provenance={"task": "x"}),
    "deep": SoftPrompt(
        {f"layers.{n}.{kind}": ROWS.reshape(2, 3, 2).bfloat16() for n in range(2) for kind in ("key", "value")},
        Template("{bos}{soft}{text}"), LABELS, BACKBONE, temperature=1.5, abstain=0.5,
    ),
    "head": SoftPrompt(
        {"input": ROWS.half(), "readout.weight": ROWS[:2].clone(), "readout.bias": ROWS[0, :2].clone()},
        Template("{soft}{text}"), LABELS, BACKBONE,
    ),
    "chat": SoftPrompt({"input": ROWS}, ChatTemplate(system="Be brief."), Text(9, ("\n",)), BACKBONE),
}  # fmt: skip
FILES = {name: prompt.to_bytes() for name, prompt in PROMPTS.items()}

Cases = Iterator[bytes]


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header as JSON, and the numbers."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def file_of(header: object, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def remade(data: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The file with its header changed in place, or replaced by what `change` returns."""
    header, body = parts(data)
    return file_of(change(header) or header, body)


def restated(data: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The file with its manifest changed in place, or replaced by the text that `change` returns."""
    header, body = parts(data)
    manifest = json.loads(header["__metadata__"]["softprompt"])
    text = change(manifest)
    header["__metadata__"]["softprompt"] = text if isinstance(text, str) else json.dumps(manifest)
    return file_of(header, body)


# --- mutations of our own file --------------------------------------------------------------------------------------


def truncated(dice: random.Random) -> Cases:
    for data in FILES.values():
        size = 8 + int.from_bytes(data[:8], "little")
        regions = [range(8), range(8, size), range(size, len(data))]
        for region in regions:
            yield from (data[:at] for at in dice.sample(region, min(len(region), 12)))
        yield data[:-1]


def lying_lengths(dice: random.Random) -> Cases:
    for data in FILES.values():
        true = int.from_bytes(data[:8], "little")
        lies = [0, 1, 2, true - 8, true - 1, true + 1, true + 8, len(data), 2**20, 2**20 + 1, 2**31, 2**32 - 1]
        for lie in [*lies, 2**63, 2**64 - 1, *(dice.randrange(2**64) for _ in range(6))]:
            yield lie.to_bytes(8, "little") + data[8:]


def broken_json(dice: random.Random) -> Cases:
    """A sign of the header's JSON taken out, doubled or replaced, outside of the manifest, which is a text in it."""
    for data in FILES.values():
        header, body = parts(data)
        manifest = json.dumps(header["__metadata__"]["softprompt"])
        header["__metadata__"]["softprompt"] = "@"
        text = json.dumps(header, separators=(",", ":"))
        signs = [i for i, letter in enumerate(text) if letter in '{}[]:,"']
        for at in dice.sample(signs, 12):
            for fresh in ("", text[at] * 2, "\x00", "é"[:1]):
                yield file_of((text[:at] + fresh + text[at + 1 :]).replace('"@"', manifest).encode(), body)


def other_encodings(dice: random.Random) -> Cases:
    for data in FILES.values():
        size = int.from_bytes(data[:8], "little")
        text, body = data[8 : 8 + size], data[8 + size :]
        for encoding in ("utf-16", "utf-32", "utf-8-sig"):
            yield file_of(text.decode().encode(encoding), body)
        for at in dice.sample(range(1, size), 5):
            yield file_of(text[:at] + b"\xff" + text[at:], body)
        yield file_of(b" " + text, body)


def wrong_sites(dice: random.Random) -> Cases:
    names = [
        "", "Input", "input ", "inputs", "encoder", "encoder.output", "decoder.input", "layers", "layers.0",
        "layers.00.key", "layers.-1.key", "layers.0.keys", "layers.100000.key", "layers.٣.key", "readout", "readout.w",
        "../input", "input\n", "input\x00", "prompt_embeddings", "__metadata__2", "os.system", "lm_head.weight",
    ]  # fmt: skip
    for name in names:
        for data in (FILES["rows"], FILES["head"]):

            def renamed(header: dict[str, Any], name: str = name) -> None:
                header[name] = header.pop("input")

            yield remade(data, renamed)
    for site in ("layers.0.key", "layers.1.value", "readout.weight"):
        for data in FILES.values():
            if site in parts(data)[0]:
                yield remade(data, lambda header, site=site: {k: v for k, v in header.items() if k != site})


def wrong_entries(dice: random.Random) -> Cases:
    """Dtypes, shapes and offsets that lie, in every tensor of every file."""
    changes: dict[str, list[Any]] = {
        "dtype": ["F64", "I64", "U8", "BOOL", "F8_E4M3", "f32", "", None, 32, ["F32"], {}],
        "shape": [
            [], [12], [-3, -4], [3.0, 4.0], [True, 12], ["3", "4"], [[3, 4]], None, "3,4", [2**40, 2**40], [0, 4],
            [3, 4, 1, 1], [2**63, 2], [1, 2**70], [16_385, 1], {"0": 3},
        ],
        "data_offsets": [
            [], [0], [0, 0], [1, 49], [49, 1], [-48, 0], [0, 2**40], [2**63, 2**63 + 48], [0.0, 48.0], ["0", "48"],
            None, [0, 48, 96], [0, 10**30],
        ],
    }  # fmt: skip
    for data in FILES.values():
        for site in [site for site in parts(data)[0] if site != "__metadata__"]:
            for key, values in changes.items():
                for value in values:
                    if parts(data)[0][site][key] != value:
                        yield remade(data, lambda header, s=site, k=key, v=value: header[s].update({k: v}))
            for entry in (None, [], "F32", {}, {"dtype": "F32"}, 7):
                yield remade(data, lambda header, s=site, e=entry: {**header, s: e})


def overlapping(dice: random.Random) -> Cases:
    for name in ("deep", "head"):
        header, body = parts(FILES[name])
        for site in [site for site in header if site != "__metadata__"]:
            begin, end = header[site]["data_offsets"]
            for shift in (-end, -4, -1, 1, 4, 1000):
                changed = json.loads(json.dumps(header))
                changed[site]["data_offsets"] = [begin + shift, end + shift]
                yield file_of(changed, body)
    yield from (data + tail for data in FILES.values() for tail in (b"\x00", b"PK\x03\x04", bytes(100), data))


def wrong_metadata(dice: random.Random) -> Cases:
    values: list[Any] = [
        None,
        [],
        "x",
        {},
        {"format": "pt"},
        {"softprompt": 1},
        {"softprompt": None},
        {"softprompt": {}},
    ]
    values += [{"softprompt": text} for text in ("", "{", "[]", "1", "null", '"x"', "{}", "\ud800"[:0] + "nul")]
    for data in FILES.values():
        kept = parts(data)[0]["__metadata__"]
        for value in [*values, {**kept, "more": "x"}]:
            yield remade(data, lambda header, v=value: {**header, "__metadata__": v})
        yield remade(data, lambda header: {k: v for k, v in header.items() if k != "__metadata__"})


def wrong_manifests(dice: random.Random) -> Cases:
    """Values of the wrong kind in every place whose kind is fixed, and keys taken away."""
    wrong: list[Any] = [None, True, -1, 2.5, "", "x", [], [1], ["x", 2], {}, {"a": 1}]
    for data in FILES.values():
        manifest = json.loads(parts(data)[0]["__metadata__"]["softprompt"])
        for key in ("format", "requires", "template", "readout", "fingerprint", "tokenization", "temperature"):
            for value in wrong:
                if value != manifest[key] and (key, value) not in ALLOWED:
                    yield restated(data, lambda found, k=key, v=value: found.update({k: v}))
        for key in ("abstain", "decoding", "provenance"):
            for value in ("x", True, -1, [1]):
                yield restated(data, lambda found, k=key, v=value: found.update({k: v}))
        for outer in ("template", "readout", "fingerprint"):
            for inner in manifest[outer]:
                for value in (7.5, True, {"a": 1}, [[]]):
                    if not (inner in BOOLEAN and value is True) and not (inner in FLOAT and value == 7.5):
                        yield restated(data, lambda found, o=outer, i=inner, v=value: found[o].update({i: v}))
            yield restated(data, lambda found, o=outer: found[o].update({"more": 1}))
        for key in ("format", "template", "readout", "fingerprint", "tokenization"):
            yield restated(data, lambda found, k=key: found.pop(k) and None)


ALLOWED = [("temperature", 2.5), ("requires", [])]
BOOLEAN, FLOAT = ("own_system",), ("low", "high")


def features(dice: random.Random) -> Cases:
    for data in FILES.values():
        needed = json.loads(parts(data)[0]["__metadata__"]["softprompt"])["requires"]
        for more in ("telepathy", "", "INPUT", "key-values ", "router"):
            yield restated(data, lambda found, m=more: found.update(requires=[*found["requires"], m]))
        for less in needed:
            yield restated(data, lambda found, m=less: found.update(requires=[f for f in found["requires"] if f != m]))


def numbers_that_are_none(dice: random.Random) -> Cases:
    """NaN and infinity of every dtype, at random places of every tensor; and as words of JSON."""
    bits = {"F32": (4, (0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001)), "F16": (2, (0x7C00, 0xFC00, 0x7E00)),
            "BF16": (2, (0x7F80, 0xFF80, 0x7FC0))}  # fmt: skip
    for data in FILES.values():
        header, body = parts(data)
        for site, entry in header.items():
            if site == "__metadata__":
                continue
            width, values = bits[entry["dtype"]]
            for value in values:
                at = dice.randrange(entry["data_offsets"][0], entry["data_offsets"][1], width)
                yield file_of(header, body[:at] + value.to_bytes(width, "little") + body[at + width :])
        for word in ("NaN", "Infinity", "-Infinity", "1e999", "-1e400"):
            yield restated(data, lambda found, w=word: json.dumps(found | {"temperature": "@"}).replace('"@"', w))
            yield restated(data, lambda found, w=word: json.dumps(found | {"provenance": {"x": "@"}}).replace('"@"', w))


def twice(dice: random.Random) -> Cases:
    """Keys that stand twice, of which two readers may take different ones."""
    for data in FILES.values():
        header, body = parts(data)
        site = next(key for key in header if key != "__metadata__")
        whole = json.dumps(header)
        again = f'{{"{site}":{json.dumps(header[site])},' + whole[1:]
        yield file_of(again.encode(), body)
        yield file_of((whole[:-1] + f',"{site}":{json.dumps(header[site])}}}').encode(), body)
        yield file_of((whole[:-1] + f',"__metadata__":{json.dumps(header["__metadata__"])}}}').encode(), body)
        yield file_of(whole.replace('"dtype":', '"dtype": "F32", "dtype":', 1).encode(), body)
        for key in ("format", "template", "readout", "requires", "temperature"):
            yield restated(data, lambda found, k=key: f'{{"{k}": {json.dumps(found[k])},' + json.dumps(found)[1:])


def deep_json(dice: random.Random) -> Cases:
    for depth in (2_000, 50_000, 200_000):
        for opening, closing in (("[", "]"), ('{"a":', "}")):
            nest = opening * depth + "1" + closing * depth
            yield file_of(f'{{"a":{nest}}}'.encode(), b"")
            yield file_of(nest.encode(), b"")
            yield restated(FILES["rows"], lambda found, n=nest: json.dumps(found)[:-1] + f',"deep":{n}}}')
            yield restated(FILES["rows"], lambda found, n=nest: json.dumps(found)[:-1] + f',"deep":{n}')
    yield restated(FILES["rows"], lambda found: json.dumps(found | {"pad": "x" * (2**19 + 1)}))
    yield restated(FILES["rows"], lambda found: json.dumps(found)[:-1] + ',"n":' + "9" * 5_000 + "}")


def other_files(dice: random.Random) -> Cases:
    out = io.BytesIO()
    torch.save({"input": ROWS}, out)  # noqa: TID251 - to be refused
    yield out.getvalue()
    yield write_torch(ROWS)
    yield npy(ROWS.numpy())
    yield safetensors.torch.save({"input": ROWS})
    yield safetensors.torch.save({"input": ROWS}, {"format": "pt"})
    yield from (gzip.compress(data) for data in FILES.values())
    heads = [b"", b"GGUF", b"\x80\x04K\x01.", b"<html></html>", b"{}", b"\x7fELF", b"#!/bin/sh\nrm -rf /\n", bytes(8)]
    yield from (head + tail for head in heads for tail in (b"", bytes(100)))
    yield from (dice.randbytes(size) for size in range(200))


STRUCTURE = [
    truncated, lying_lengths, broken_json, other_encodings, wrong_sites, wrong_entries, overlapping, wrong_metadata,
    wrong_manifests, features, numbers_that_are_none, twice, deep_json, other_files,
]  # fmt: skip


@pytest.fixture(autouse=True)
def flat_memory() -> Iterator[None]:
    """No mutation makes the process grow by what it claims."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300 * 1024, f"grew by {grown // 1024} MB"


def said(refused: Callable[[], object]) -> bool:
    """Whether something is refused, in one clear sentence; anything else that it raises goes on up."""
    try:
        refused()
    except SoftPromptError as error:
        text = str(error)
        assert "`" in text
        assert 30 < len(text) < 2_000
        assert text.isprintable()
        return True
    return False


@pytest.mark.parametrize("mutation", STRUCTURE, ids=lambda each: each.__name__)
def test_a_malformed_file_is_refused(mutation: Callable[[random.Random], Cases]) -> None:
    for number, data in enumerate(mutation(random.Random(0))):
        assert said(lambda data=data: SoftPrompt.from_bytes(data, "hostile")), f"case {number} loads: {data[:300]!r}"


def test_there_are_enough_of_them() -> None:
    assert sum(1 for mutation in STRUCTURE for _ in mutation(random.Random(0))) > 1_000
    assert all(SoftPrompt.from_bytes(data).digest == PROMPTS[name].digest for name, data in FILES.items())


def test_a_listing_that_reads_heads_alone_refuses_the_same_structure() -> None:
    """The store lists prompts by their heads, without their numbers: what is wrong with a head shows there too."""

    def listed(data: bytes) -> None:
        read_manifest(read_header(data[: 8 + 2**20], len(data), "hostile"), "hostile")

    for mutation in (
        lying_lengths,
        broken_json,
        wrong_sites,
        wrong_entries,
        overlapping,
        wrong_metadata,
        features,
        twice,
    ):
        for number, data in enumerate(mutation(random.Random(1))):
            assert said(lambda data=data: listed(data)), f"case {number} of {mutation.__name__} is listed"


def test_a_flipped_bit_of_a_store_object_is_always_seen(tmp_path: Path) -> None:
    """A prompt file has no checksum inside, for in the store its name is one: there any bit counts."""
    store, dice = PromptStore(tmp_path / "store"), random.Random(2)
    for name, data in FILES.items():
        digest = store.put(PROMPTS[name], name).digest
        path = store.root / "objects" / digest[:2] / digest[2:]
        path.chmod(0o600)
        for at in dice.sample(range(len(data)), 40):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :])
            assert said(lambda name=name: PromptStore(tmp_path / "store").get(name)), f"byte {at} of `{name}`"
        path.write_bytes(data)
        assert store.get(name).digest == digest


# --- files of other tools -------------------------------------------------------------------------------------------


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def kobold() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr(zipfile.ZipInfo("tensor.npy"), npy(ROWS.numpy()), zipfile.ZIP_LZMA)
        archive.writestr(zipfile.ZipInfo("meta.json"), b'{"name": "Noir"}', zipfile.ZIP_STORED)
    return out.getvalue()


def saved() -> bytes:
    out = io.BytesIO()
    torch.save(ROWS, out)  # noqa: TID251 - what others wrote is what is read here
    return out.getvalue()


def read_kobold(data: bytes, name: str) -> torch.Tensor:
    return read_npy(Archive(data, name, ("stored", "deflate", "lzma")).read("tensor.npy"), name)


FOREIGN = {"npy": (npy(ROWS.numpy()), read_npy), "torch": (saved(), read_torch), "kobold": (kobold(), read_kobold)}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_cut_short_or_grown_is_refused(kind: str) -> None:
    good, read = FOREIGN[kind]
    assert torch.equal(read(good, "x"), ROWS)
    for at in range(len(good)):
        assert said(lambda at=at: read(good[:at], "x")), f"cut at {at}"
    for head in (b"\x00", b"PK", good[:8]):
        assert said(lambda head=head: read(head + good, "x")), f"behind {head!r}"


def test_every_flipped_bit_of_an_arrays_header_is_refused() -> None:
    good = FOREIGN["npy"][0]
    for at in range(8 * 128):
        bad = bytearray(good)
        bad[at // 8] ^= 1 << at % 8
        assert said(lambda bad=bad: read_npy(bytes(bad), "x")), f"bit {at}: {bytes(bad[:128])!r}"


@pytest.mark.parametrize("kind", ["torch", "kobold"])
def test_a_flipped_bit_of_an_archive_is_refused_or_says_nothing(kind: str) -> None:
    (good, read), refused = FOREIGN[kind], 0
    for at in range(8 * len(good)):
        bad = bytearray(good)
        bad[at // 8] ^= 1 << at % 8
        found: list[torch.Tensor] = []
        if said(lambda bad=bad, found=found: found.append(read(bytes(bad), "x"))):
            refused += 1
        else:
            assert torch.equal(found[0], ROWS), f"bit {at}"
    assert refused > 2 * len(good)


@pytest.mark.parametrize("kind", FOREIGN)
def test_random_bytes_in_a_foreign_file_never_load_as_other_rows(kind: str) -> None:
    good, read = FOREIGN[kind]
    dice = random.Random(3)
    head = len(good) if kind != "npy" else 128  # an array has no checksum: its numbers are as they are
    for _ in range(400):
        bad = bytearray(good)
        for at in dice.sample(range(head), dice.randint(2, 6)):
            bad[at] = dice.randrange(256)
        found: list[torch.Tensor] = []
        assert said(lambda bad=bad, found=found: found.append(read(bytes(bad), "x"))) or torch.equal(found[0], ROWS)


def test_arrays_that_claim_more_than_there_is() -> None:
    good = npy(ROWS.numpy())
    for shape in (
        "(3, 5)",
        "(0, 4)",
        "(12,)",
        "()",
        "(3, 4, 1)",
        "(99999999999, 4)",
        "(2305843009213693952, 8)",
        "(3, -4)",
    ):
        for descr in ("<f4", "<f8", "|O", "|S8", "<U9", "|b1", "<c8", ">f4", "<f2", "|V4", "|V2"):
            text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
            assert said(lambda text=text: read_npy(good[:10] + text.encode() + good[128:], "x")), text
    for code in ("__import__('os').getcwd()", "(" * 4_000, "{" * 4_000, "[[" * 2_000, "1", "{'descr': '<f4'}"):
        text = code.encode().ljust(118)
        data = good[:8] + struct.pack("<H", len(text)) + text + good[128:]
        assert said(lambda data=data: read_npy(data, "x")), code[:20]


def test_programs_of_random_instructions_build_nothing() -> None:
    """Any program at all, many of them begun as a good one begins: a tensor of the saved rows, or a refusal."""
    good, dice = saved(), random.Random(4)
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    program = members["archive/data.pkl"]
    for number in range(600):
        kept = dice.randrange(len(program)) if number % 2 else 2
        members["archive/data.pkl"] = program[:kept] + dice.randbytes(dice.randint(1, 60)) + dice.choice((b"", b"."))
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        found: list[torch.Tensor] = []
        read = out.getvalue()
        assert said(lambda read=read, found=found: found.append(read_torch(read, "x"))) or torch.equal(found[0], ROWS)


def test_archives_that_unpack_to_more_than_a_prompt_may_have() -> None:
    """A bomb by its own word is refused unread; one that lies of its size is read up to the lie."""
    for packing in (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", packing) as archive:
            archive.writestr("tensor.npy", bytes(80 * 2**20))
        assert said(lambda out=out: read_kobold(out.getvalue(), "x"))
        lie = bytearray(out.getvalue())
        for signature, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
            at = lie.index(signature) + place
            lie[at : at + 4] = struct.pack("<I", 100)
        assert said(lambda lie=lie: read_kobold(bytes(lie), "x"))

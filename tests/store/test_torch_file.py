"""What PyTorch saves of one tensor is written and read without unpickling, bit by bit; all else is refused by name."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from softprompt.errors import PromptFileError
from softprompt.store.torch_file import read_torch, write_torch

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SHAPES = ((1, 1), (3, 4), (20, 640), (2, 70_000))


def rows_of(shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def saved(value: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, **options)  # noqa: TID251 - what others wrote is what is read here
    return out.getvalue()


def repacked(data: bytes, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """The archive with members changed, or left out where `change` gives none."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            fresh = change(name, old.read(name))
            if fresh is not None:
                new.writestr(name, fresh)
    return out.getvalue()


def with_program(change: Callable[[bytes], bytes]) -> bytes:
    return repacked(saved(rows_of((3, 4))), lambda name, data: change(data) if name.endswith("data.pkl") else data)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_torch_reads_what_we_write_and_we_read_what_torch_writes(shape: tuple[int, int], dtype: torch.dtype) -> None:
    rows = rows_of(shape, dtype)
    back = torch.load(io.BytesIO(write_torch(rows)), weights_only=True)  # noqa: TID251 - as vLLM reads it
    assert (back.dtype, back.is_contiguous()) == (dtype, True)
    assert torch.equal(back, rows)
    for data in (saved(rows), write_torch(rows)):
        found = read_torch(data, "decoder.pt")
        assert found.dtype == dtype
        assert torch.equal(found, rows)


def test_equal_rows_are_equal_bytes() -> None:
    rows = rows_of((3, 4))
    assert write_torch(rows) == write_torch(rows.T.contiguous().T)


def test_bits_that_are_no_number_survive() -> None:
    rows = torch.tensor([[float("nan"), float("inf")], [-0.0, 1e-45]])
    assert torch.equal(read_torch(write_torch(rows), "x").view(torch.int32), rows.view(torch.int32))


@pytest.mark.parametrize(
    "view",
    [
        lambda rows: rows[2:5],
        lambda rows: rows[:, 1:3],
        lambda rows: rows.T,
        lambda rows: rows[::2, ::2],
        lambda rows: rows.requires_grad_(),
    ],
)
def test_views_of_a_larger_storage_are_read_as_they_are(view: Callable[[Tensor], Tensor]) -> None:
    rows = view(rows_of((6, 4)))
    assert torch.equal(read_torch(saved(rows), "x"), rows.detach())


def test_a_dtype_that_is_not_written() -> None:
    with pytest.raises(PromptFileError, match=r"they are torch.float64; what is written has float32, bfloat16 or"):
        write_torch(torch.ones(2, 2, dtype=torch.float64))


class Touch:
    """What a hostile file holds: unpickled, it would write a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"rows": torch.ones(2, 2)}, "its program has the instruction EMPTY_DICT, which a bare tensor has no use for"),
        ([torch.ones(2, 2)], "has the instruction EMPTY_LIST"),
        (torch.nn.Parameter(torch.ones(2, 2)), "its program names `torch._utils _rebuild_parameter`"),
        (torch.ones(2, 2, dtype=torch.int64), "its program names `torch LongStorage`"),
        (torch.ones(2, 2, dtype=torch.float64), "its program names `torch DoubleStorage`"),
        (torch.ones(4), "it is not one tensor of two axes: its program has the instruction TUPLE1"),
        (torch.ones(2, 2, 2), "has the instruction TUPLE3"),
        (torch.ones(2, 2).to_sparse(), "its program names `torch._utils _rebuild_sparse_tensor`"),
        (torch.ones(1, 1).expand(2, 2), r"tensor \[2, 2\] with strides \[0, 0\] from 0 does not lie in its storage"),
        (torch.ones(3).unfold(0, 2, 1), r"with strides \[1, 1\] from 0 does not lie in"),
        (torch.ones(0, 3), r"its tensor \[0, 3\] with strides"),
        ("a word", "it is not one tensor; save the rows alone"),
    ],
)
def test_anything_but_a_bare_tensor_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(PromptFileError, match=message):
        read_torch(saved(value), "decoder.pt")


def test_a_hostile_program_does_nothing(tmp_path: Any) -> None:
    with pytest.raises(PromptFileError, match=r"its program names `(io|_io|__builtin__) open`"):
        read_torch(saved(Touch(str(tmp_path / "hit"))), "decoder.pt")
    assert not (tmp_path / "hit").exists()


def test_pytorchs_old_format_is_refused_by_name() -> None:
    data = saved(torch.ones(2, 2), _use_new_zipfile_serialization=False)
    with pytest.raises(PromptFileError, match=r"it is of PyTorch's format before 1.6, which cannot be read without"):
        read_torch(data, "decoder.pt")


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_other_protocols_are_refused(protocol: int) -> None:
    with pytest.raises(PromptFileError, match=f"its program is of protocol {protocol}, not 2"):
        read_torch(saved(torch.ones(2, 2), pickle_protocol=protocol), "decoder.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda program: program[:-1], "its program ends in the middle"),
        (lambda program: program[:4], "its program ends in the middle"),
        (lambda program: program + b".", "its program does not end in one tensor"),
        (lambda program: b"\x80\x02(.", "it is not one tensor; save the rows alone"),
        (
            lambda program: program.replace(b"K\x03K\x04\x86", b"(" * 1800 + b"t" * 1800 + b"K\x01\x86"),
            "it is not one tensor; save the rows alone",
        ),
        (lambda program: b"\x80\x02t.", "its program takes what is not there"),
        (lambda program: b"\x80\x02R.", "its program takes what is not there"),
        (lambda program: b"\x80\x02)Q.", "its program has a storage of another form"),
        (lambda program: b"\x80\x02))R.", "its program calls something else than a tensor's making"),
        (lambda program: b"\x80\x02\xff.", "the instruction 0xff, which"),
        (lambda program: program.replace(b"torch._utils\n", b"os\n"), "its program names `os _rebuild_tensor_v2`"),
        (lambda program: program.replace(b"K\x0ct", b"K\x0dt"), "its storage has 48 bytes, not those of 13 numbers"),
        (lambda program: program.replace(b"K\x03K\x04\x86", b"K\x04K\x04\x86"), "does not lie in its storage of 12"),
        (lambda program: program.replace(b"QK\x00", b"QK\x01"), r"from 1 does not lie in its storage of 12 numbers"),
        (lambda program: program.replace(b"QK\x00", b"QJ\xff\xff\xff\xff"), r"from -1 does not lie in its storage"),
        (
            lambda program: program.replace(b"\x01\x00\x00\x000", b"\x01\x00\x00\x009"),
            "the archive has no `archive/data/9`",
        ),
        (lambda program: b"\x80\x02" + b"(" * 5000, "`archive/data.pkl` has 5,002 bytes of at most 4,096"),
    ],
)
def test_a_changed_program_is_refused(change: Callable[[bytes], bytes], message: str) -> None:
    with pytest.raises(PromptFileError, match=message):
        read_torch(with_program(change), "decoder.pt")


def test_other_archives_are_refused() -> None:
    data = saved(torch.ones(2, 2))
    with pytest.raises(PromptFileError, match="it does not begin as a file that PyTorch saved"):
        read_torch(b"\x80\x02.", "x")
    with pytest.raises(PromptFileError, match=r"without the one `data.pkl` that PyTorch writes"):
        read_torch(repacked(data, lambda name, each: None if name.endswith("data.pkl") else each), "x")
    with pytest.raises(PromptFileError, match="its numbers are big-endian"):
        read_torch(repacked(data, lambda name, each: b"big" if name.endswith("byteorder") else each), "x")


def test_the_program_we_write_has_no_instruction_beyond_those_we_read() -> None:
    with zipfile.ZipFile(io.BytesIO(write_torch(rows_of((3, 4))))) as archive:
        names = {opcode.name for opcode, _, _ in pickletools.genops(archive.read("archive/data.pkl"))}
    assert names == {
        "PROTO", "GLOBAL", "MARK", "BINUNICODE", "BININT", "TUPLE", "BINPERSID", "TUPLE2", "NEWFALSE", "EMPTY_TUPLE",
        "REDUCE", "STOP",
    }  # fmt: skip

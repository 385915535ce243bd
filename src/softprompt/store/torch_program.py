"""The program inside a file that PyTorch saves: written from one pattern, and run by a machine that can do no harm.

`data.pkl` is a program for a stack machine, which says where in a storage a tensor lies. For one tensor [P, D] it is
always the same but for a few numbers. The machine here knows the sixteen instructions of that program, five names, and
nothing else: it builds tuples of numbers and words, and calls nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from softprompt.errors import PromptFileError
from softprompt.prompts.header import refused

STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
}
"""What PyTorch calls the storage of a dtype that a prompt can have."""

_REBUILD, _ORDERED = "torch._utils _rebuild_tensor_v2", "collections OrderedDict"


class _Storage(NamedTuple):
    """Which member holds the numbers, their dtype and how many they are."""

    dtype: torch.dtype
    key: str
    size: int


class Found(NamedTuple):
    """Where in a storage a tensor lies."""

    dtype: torch.dtype
    key: str
    size: int
    offset: int
    shape: tuple[int, int]
    strides: tuple[int, int]


class _Global(NamedTuple):
    """A name that the program mentions; it is never looked up."""

    name: str


_MARK = object()


def write_program(storage: str, rows: int, columns: int) -> bytes:
    """Return the program that makes a contiguous tensor [rows, columns] of the storage `data/0`."""
    return b"".join(
        (
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((",
            _word("storage") + f"ctorch\n{storage}\n".encode() + _word("0") + _word("cpu"),
            _number(rows * columns) + b"tQ" + _number(0),
            _number(rows) + _number(columns) + b"\x86" + _number(columns) + _number(1) + b"\x86",
            b"\x89ccollections\nOrderedDict\n)RtR.",
        )
    )


def _word(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def _number(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little", signed=True)


class _Machine:
    """Runs a program: a stack of numbers, words and tuples."""

    def __init__(self, program: bytes, name: str) -> None:
        self._program, self._name, self._at = program, name, 0
        self.stack: list[Any] = []

    def run(self) -> Any:
        """Run to the end and return the one thing that is left."""
        while True:
            code = self.take(1)
            if code == b".":
                break
            if code not in _INSTRUCTIONS:
                told = _OTHERS.get(code, f"0x{code.hex()}")
                raise self.refused(f"its program has the instruction {told}, which a bare tensor has no use for")
            _INSTRUCTIONS[code](self)
        if len(self.stack) != 1 or self._at != len(self._program):
            raise self.refused("its program does not end in one tensor")
        return self.stack[0]

    def refused(self, reason: str) -> PromptFileError:
        """Build the error of a program that is not the one of a bare tensor."""
        return refused(
            self._name, f"it is not one tensor of two axes: {reason}; save the rows alone: torch.save(rows, path)"
        )

    def take(self, count: int) -> bytes:
        """The next bytes of the program."""
        found = self._program[self._at : self._at + count]
        if len(found) < count:
            raise self.refused("its program ends in the middle")
        self._at += count
        return found

    def line(self) -> str:
        """The next bytes up to a newline."""
        end = self._program.find(b"\n", self._at)
        if end < 0:
            raise self.refused("its program ends in the middle")
        return self.take(end + 1 - self._at)[:-1].decode("utf-8", "replace")

    def pop(self) -> Any:
        """Take the last thing from the stack."""
        if not self.stack or self.stack[-1] is _MARK:
            raise self.refused("its program takes what is not there")
        return self.stack.pop()

    def since_mark(self) -> tuple[Any, ...]:
        """Take everything behind the last mark from the stack, and the mark."""
        places = [i for i, item in enumerate(self.stack) if item is _MARK]
        if not places:
            raise self.refused("its program takes what is not there")
        found = tuple(self.stack[places[-1] + 1 :])
        del self.stack[places[-1] :]
        return found


def _protocol(machine: _Machine) -> None:
    version = machine.take(1)[0]
    if version != 2:
        raise machine.refused(f"its program is of protocol {version}, not 2")


def _global(machine: _Machine) -> None:
    found = f"{machine.line()} {machine.line()}"
    if found not in (_REBUILD, _ORDERED) and found not in {f"torch {storage}" for storage in STORAGES}:
        raise machine.refused(f"its program names `{found[:80]}`")
    machine.stack.append(_Global(found))


def _note(machine: _Machine) -> None:
    """BINPUT: note a thing for later, which never comes."""
    machine.take(1)


def _unicode(machine: _Machine) -> None:
    length = int.from_bytes(machine.take(4), "little")
    machine.stack.append(machine.take(length).decode("utf-8", "replace"))


def _pair(machine: _Machine) -> None:
    second, first = machine.pop(), machine.pop()
    machine.stack.append((first, second))


def _persistent(machine: _Machine) -> None:
    """The storage: `("storage", its class, its key, its device, its size)`."""
    match machine.pop():
        case ("storage", _Global(kind), str(key), str(), int(size)) if kind.removeprefix("torch ") in STORAGES:
            machine.stack.append(_Storage(STORAGES[kind.removeprefix("torch ")], key, size))
        case _:
            raise machine.refused("its program has a storage of another form")


def _reduce(machine: _Machine) -> None:
    """What would be a call: an empty `OrderedDict` is nothing, and the tensor is told by its arguments."""
    arguments, function = machine.pop(), machine.pop()
    if function == _Global(_ORDERED) and arguments == ():
        machine.stack.append(None)
    elif function == _Global(_REBUILD):
        machine.stack.append(arguments)
    else:
        raise machine.refused("its program calls something else than a tensor's making")


def _push(value: Any) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(value)


def _whole(size: int, *, signed: bool = False) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(int.from_bytes(machine.take(size), "little", signed=signed))


_INSTRUCTIONS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _protocol,
    b"c": _global,
    b"q": _note,
    b"(": _push(_MARK),
    b"X": _unicode,
    b"K": _whole(1),
    b"M": _whole(2),
    b"J": _whole(4, signed=True),
    b"t": lambda machine: machine.stack.append(machine.since_mark()),
    b")": _push(()),
    b"\x86": _pair,
    b"Q": _persistent,
    b"\x88": _push(True),
    b"\x89": _push(False),
    b"R": _reduce,
}
_OTHERS = {
    b"0": "POP", b"2": "DUP", b"F": "FLOAT", b"G": "BINFLOAT", b"I": "INT", b"L": "LONG", b"N": "NONE", b"P": "PERSID",
    b"S": "STRING", b"T": "BINSTRING", b"U": "SHORT_BINSTRING", b"V": "UNICODE", b"]": "EMPTY_LIST", b"a": "APPEND",
    b"b": "BUILD", b"d": "DICT", b"}": "EMPTY_DICT", b"e": "APPENDS", b"g": "GET", b"h": "BINGET", b"i": "INST",
    b"j": "LONG_BINGET", b"l": "LIST", b"o": "OBJ", b"p": "PUT", b"r": "LONG_BINPUT", b"s": "SETITEM", b"u": "SETITEMS",
    b"1": "POP_MARK", b"B": "BINBYTES", b"C": "SHORT_BINBYTES", b"\x81": "NEWOBJ", b"\x82": "EXT1", b"\x83": "EXT2",
    b"\x84": "EXT4", b"\x85": "TUPLE1", b"\x87": "TUPLE3", b"\x8a": "LONG1", b"\x8b": "LONG4",
    b"\x8c": "SHORT_BINUNICODE", b"\x8d": "BINUNICODE8", b"\x8e": "BINBYTES8", b"\x8f": "EMPTY_SET",
    b"\x90": "ADDITEMS", b"\x91": "FROZENSET", b"\x92": "NEWOBJ_EX", b"\x93": "STACK_GLOBAL", b"\x94": "MEMOIZE",
    b"\x95": "FRAME", b"\x96": "BYTEARRAY8", b"\x97": "NEXT_BUFFER", b"\x98": "READONLY_BUFFER",
}  # fmt: skip


def run_program(program: bytes, name: str) -> Found:
    """Run a program and return where the tensor lies that it makes.

    Args:
        program: the bytes of `data.pkl`.
        name: what to call the file in an error.

    Raises:
        PromptFileError: it makes anything else than one tensor of two axes; the message names the instruction.
    """
    # The arguments of a tensor's making: storage, offset, shape, strides, requires_grad, hooks.
    match _Machine(program, name).run():
        case (_Storage(dtype, key, size), int(offset), (int(p), int(d)), (int(s), int(t)), bool(), None):
            return Found(dtype, key, size, offset, (p, d), (s, t))
        case (_Storage(), _, tuple(shape), *_) if all(isinstance(size, int) for size in shape):
            raise refused(name, f"its tensor has the shape {list(shape)}; the rows of a prompt are [P, D]")
        case _:
            raise refused(name, "it is not one tensor; save the rows alone: torch.save(rows, path)")

"""The house stays small: short functions, short files, no room for odds and ends."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

import pytest

import softprompt

SOURCE = Path(softprompt.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
FUNCTION_LIMIT, FUNCTION_MEDIAN, FILE_LIMIT = 60, 8, 500
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}
BANNED_WORDS = ("TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(function: Function, lines: list[str]) -> int:
    """Count the lines of a function, its signature among them, that are neither blank nor comment nor docstring."""
    told = function.body[0] if ast.get_docstring(function) is not None else None
    docstring = range(told.lineno, (told.end_lineno or told.lineno) + 1) if told else ()
    inside = (n for n in range(function.lineno, (function.end_lineno or function.lineno) + 1) if n not in docstring)
    texts = (lines[n - 1].strip() for n in inside)
    return sum(1 for text in texts if text and not text.startswith("#"))


def functions() -> dict[str, int]:
    """Code lines of every function of the package, by `file:line name`."""
    sizes = {}
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, Function):
                where = f"{path.relative_to(SOURCE)}:{node.lineno} {node.name}"
                sizes[where] = code_lines(node, text.splitlines())
    return sizes


def test_no_function_is_longer_than_a_screen() -> None:
    long = {name: size for name, size in functions().items() if size > FUNCTION_LIMIT}
    assert not long, f"functions over {FUNCTION_LIMIT} code lines: {long}"


def test_half_of_the_functions_have_eight_lines_or_fewer() -> None:
    assert statistics.median_low(functions().values()) <= FUNCTION_MEDIAN


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_file_is_short_and_says_what_it_is_called(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= FILE_LIMIT
    assert not BANNED_NAMES & {path.stem, *path.relative_to(SOURCE).parts}
    assert not [word for word in BANNED_WORDS if word in text]


def test_no_room_is_named_for_leftovers() -> None:
    folders = {path.name for path in SOURCE.rglob("*") if path.is_dir()}
    assert not BANNED_NAMES & folders

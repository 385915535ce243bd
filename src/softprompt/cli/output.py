"""How results are printed: JSON, sizes and small tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from softprompt.modeling.answers import Answer

_TEXT_WIDTH = 60


def print_json(value: Any) -> None:
    """Print a value as JSON, indented."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def size_of(size: float) -> str:
    """Write a number of bytes as a person would.

    >>> size_of(52_300), size_of(536_000_000)
    ('52.3 KB', '536.0 MB')
    """
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} KB"


def answer_table(texts: Sequence[str], names: Sequence[str], answers: Iterable[Sequence[Answer]]) -> str:
    """Return texts with the answer of each prompt beside them, one text a line."""
    rows = [[_short(text), *map(_said, given)] for text, given in zip(texts, answers, strict=True)]
    lines = [["text", *names], *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    laid = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in laid)


def _said(answer: Answer) -> str:
    shown = _short(answer.label) or "(none)"
    if answer.probability is None:
        return shown
    sure = f"{shown} {answer.probability * 100:.1f} %"
    return f"held back ({sure})" if answer.abstained else sure


def _short(text: str) -> str:
    line = "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))
    return line if len(line) <= _TEXT_WIDTH else line[: _TEXT_WIDTH - 1] + "…"

"""A result on disk: JSON with everything, and the same as a page of Markdown."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import child
import machine


@dataclass
class Table:
    """Rows under a title; every cell is text."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    note: str = ""

    def markdown(self) -> str:
        head = ["| " + " | ".join(self.columns) + " |", "|" + " --- |" * len(self.columns)]
        body = ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join([f"## {self.title}", "", *head, *body, *(["", self.note] if self.note else [])])


@dataclass
class Result:
    """What one benchmark found.

    Attributes:
        name: of its files.
        title: a headline.
        procedure: how it was measured.
        tables: for people.
        figures: for programs: every single measurement.
        data: the files that were read, by the name they are told under.
    """

    name: str
    title: str
    procedure: str
    tables: list[Table]
    figures: Mapping[str, Any]
    data: Mapping[str, Path] = field(default_factory=dict)


def write(result: Result, folder: Path, command: str, dtype: str, device: str = "cpu") -> None:
    """Write `NAME.json` and `NAME.md`, with all that the figures depend on."""
    origin = {
        "command": command,
        "commit": machine.commit(),
        "machine": child.call("machine", "describe", dtype=dtype, device=device),
        "data": {name: sha256(path) for name, path in sorted(result.data.items())},
    }
    folder.mkdir(parents=True, exist_ok=True)
    whole = {**origin, "procedure": result.procedure, "figures": result.figures}
    (folder / f"{result.name}.json").write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", "utf-8")
    (folder / f"{result.name}.md").write_text(_page(result, origin), "utf-8")


def _page(result: Result, origin: Mapping[str, Any]) -> str:
    tables = [table.markdown() for table in result.tables if table.rows]
    return "\n\n".join([f"# {result.title}", result.procedure, *tables, _origin(origin)]) + "\n"


def _origin(origin: Mapping[str, Any]) -> str:
    found = origin["machine"]
    device = f", on {found['device']}" if "device" in found else ""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number)
    lines = [
        "## How it came about",
        "",
        f"- Command: `{origin['command']}`",
        f"- Commit: {origin['commit']}",
        f"- Machine: {found['cpu']} ({found['instructions']}), {found['cores']} cores, {found['memory_gib']} GiB, "
        f"{found['system']}; {found['threads']} threads, {found['dtype']}{device}",
        f"- Versions: {versions}",
        *(f"- Data: {name}, sha256 {digest[:16]}…" for name, digest in origin["data"].items()),
    ]
    return "\n".join(lines)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""Cells: single measurements that are written as each is done, so that a later run goes on where one ended."""

from __future__ import annotations

import fnmatch
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import child
import machine
from results import sha256
from subjects import Setting


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        name: of its file, without the suffix.
        data: the set it reads; empty: the packaged one.
        arguments: what its function is asked, besides the setting.
        call: module and function, where the folder's cells are of several kinds.
    """

    name: str
    data: str
    arguments: Mapping[str, Any]
    call: tuple[str, str] | None = None


class Cells:
    """A folder of cells, each `module.function(**arguments)` in a process of its own; a cell's own `call` goes first.

    A cell of another backbone, dtype or device counts as missing. One that fails is missing too: the next run tries
    it again.

    Args:
        setting: of this run.
        folder: of the cells, among the results.
        module, function: what a cell calls that has no `call` of its own.
        aside: parts of a setting's origin that cells may differ in.
    """

    def __init__(
        self, setting: Setting, folder: str, module: str = "", function: str = "", *, aside: Sequence[str] = ()
    ) -> None:
        self._aside = frozenset(aside)
        self._setting, self._call = setting, (module, function)
        self._folder = Path(setting.out, folder)
        self._machine: dict[str, Any] = {}

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """What was found, with what it took; None where the cell is missing."""
        try:
            found: dict[str, Any] = json.loads(self._path(cell).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if self._alike(found.get("origin")) else None

    def there(self, pattern: str) -> list[dict[str, Any]]:
        """What was found in every cell whose name has this pattern, in the order of the names."""
        names = sorted(path.stem for path in self._folder.glob(f"{pattern}.json"))
        return [found for name in names if (found := self.read(Cell(name, "", {})))]

    def run(self, cells: Sequence[Cell]) -> None:
        """Run what is missing and was asked for, in order, until the time is up; the first of them in any case."""
        began = time.monotonic()
        for count, cell in enumerate(cell for cell in cells if self._due(cell)):
            if count and self._setting.minutes is not None and time.monotonic() - began > 60 * self._setting.minutes:
                print(f"the {self._setting.minutes:g} minutes are over; run again to go on", file=sys.stderr)
                return
            self._one(cell)

    def missing(self, cells: Sequence[Cell]) -> list[str]:
        return [cell.name for cell in cells if self.read(cell) is None]

    def origins(self, cells: Sequence[Cell]) -> str:
        """Which commits the cells come from, in words."""
        commits = [found["commit"] for cell in cells if (found := self.read(cell))]
        return ", ".join(f"{commit} ({commits.count(commit)} cells)" for commit in dict.fromkeys(commits)) or "none"

    def _alike(self, origin: Mapping[str, Any] | None) -> bool:
        own = self._setting.origin
        return origin is not None and all(origin.get(each) == own[each] for each in own.keys() - self._aside)

    def _due(self, cell: Cell) -> bool:
        asked = not self._setting.only or any(fnmatch.fnmatch(cell.name, only) for only in self._setting.only)
        there = self.read(cell) is not None and not self._setting.again
        readable = not cell.data or self._setting.source(cell.data) is not None
        return asked and not there and readable

    def _one(self, cell: Cell) -> None:
        print(f"-- {cell.name}", file=sys.stderr, flush=True)
        try:
            found, cost = child.timed(*(cell.call or self._call), **self._setting.plain(**cell.arguments))
        except child.ChildError as error:
            print(f"!! {cell.name} is missing: {error}", file=sys.stderr, flush=True)
            return
        setting = self._setting
        self._machine = self._machine or child.call("machine", "describe", dtype=setting.dtype, device=setting.device)
        whole = {
            "cell": dict(cell.arguments), "origin": setting.origin, "commit": machine.commit(),
            "machine": self._machine, "data": {n: sha256(p) for n, p in sorted(setting.files(cell.data).items())},
            **cost, "found": found,
        }  # fmt: skip
        self._write(self._path(cell), json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
        print(f"-- {cell.name}: {cost['seconds']:.0f} s", file=sys.stderr, flush=True)

    def _write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)

    def _path(self, cell: Cell) -> Path:
        return self._folder / f"{cell.name}.json"

"""The cells of a comparison on disk: what each is asked, where its outcome stands, and whose outcome counts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from softprompt.experiments.compare.outcomes import CompareCell, Outcome
from softprompt.experiments.folder import ExperimentFolder, digest_of, named

WORK, ASIDE = "work", "aside"
"""The folders beside those of the tasks: checkpoints and locks; outcomes on other rows or another backbone."""


@dataclass(frozen=True)
class Ask:
    """What the process of a cell is told; plain values, so that it can be anywhere.

    Attributes:
        cell: which.
        source: where the rows of the task are.
        options: arguments of `load_task`.
        backbone: what `load_backbone` takes.
        device: where it runs; None: the best there is.
        dtype: what it computes in; None: the hardware's.
        rows: training rows of the comparison at most.
        test_rows: test rows at most.
        share: of the full length of a training, in (0, 1].
        examples: rows learned from at most, each time counted; None: until validation stops improving.
        seconds: of training at most; None: no bound.
        folder: where checkpoints and the outcome are put.
        measured: whether speed and forgetting are measured too.
        origin: what must be alike for cells to be compared.
        notes: what the reader of the outcome must know.
    """

    cell: CompareCell
    source: str
    backbone: str
    folder: str
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None
    dtype: str | None = None
    rows: int = 2_000
    test_rows: int = 2_000
    share: float = 1.0
    examples: int | None = None
    seconds: float | None = None
    measured: bool = False
    origin: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the ask as plain JSON."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Ask:
        """Read what `to_json` wrote."""
        return cls(**{**plain, "cell": CompareCell(**plain["cell"]), "notes": tuple(plain["notes"])})

    @property
    def file(self) -> Path:
        """Where the cell's process leaves its outcome."""
        return Path(self.folder) / "outcome.json"


class CellFolder:
    """The outcomes of a comparison: `<task>/<cell>.json`, each written whole when its cell has ended.

    Args:
        path: of the comparison.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.work = ExperimentFolder(path / WORK)

    def file(self, cell: CompareCell) -> Path:
        """Return where the outcome of a cell stands."""
        return self.path / named(cell.task) / f"{name_of(cell)}.json"

    def checkpoints(self, cell: CompareCell) -> Path:
        """Return where a cell works until its outcome is written."""
        return self.work.path / named(f"{cell.task}-{name_of(cell)}")

    def read(self, cell: CompareCell, origin: Mapping[str, Any]) -> Outcome | None:
        """Return the outcome of a cell; `None` where it has not ended, or ended on other rows or another backbone.

        Raises:
            StorageError: the file is damaged.
        """
        found = Outcome.read(self.file(cell))
        alike = found is not None and found.origin == json.loads(json.dumps(origin)) and found.cell == cell
        return found if alike else None

    def keep(self, outcome: Outcome) -> None:
        """Write an outcome, and take the cell's checkpoints away.

        Raises:
            StorageError: the folder cannot be written.
        """
        outcome.write(self.file(outcome.cell))
        self.tidy(outcome)

    def tidy(self, outcome: Outcome) -> None:
        """Take the checkpoints of a cell away that has ended for good."""
        if not outcome.again:
            shutil.rmtree(self.checkpoints(outcome.cell), ignore_errors=True)

    def sort(self, task: str, origin: Mapping[str, Any]) -> int:
        """Put outcomes of another origin aside, where no report looks, and those of this one back; nothing is lost.

        Args:
            task: its name.
            origin: of the comparison that is to run.

        Returns:
            How many were put aside.

        Raises:
            StorageError: a file is damaged.
        """
        here, moved = self.path / named(task), 0
        for file in sorted(here.glob("*.json")):
            found = Outcome.read(file)
            if found is not None and found.origin != json.loads(json.dumps(origin)):
                moved += 1
                _move(file, self.path / ASIDE / digest_of(found.origin) / here.name)
        for file in sorted((self.path / ASIDE / digest_of(origin) / here.name).glob("*.json")):
            _move(file, here)
        return moved


def _move(file: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file.replace(folder / file.name)


def name_of(cell: CompareCell) -> str:
    """Return what the file of a cell is called; a main cell at another rate takes the place of the one before.

    >>> name_of(CompareCell("sst2", "lora", "rows", 0, "search", rate=0.3))
    'search-lora-rows-rate-0.3'
    >>> name_of(CompareCell("sst2", "majority", "", 1, "main"))
    'main-majority-seed-1'
    >>> name_of(CompareCell("sst2", "full", "", 0, "data", rows=16))
    'data-full-rows16-seed-0'
    """
    what = "-".join(part for part in (cell.role, cell.method, cell.readout) if part)
    if cell.role == "search":
        return f"{what}-rate-{cell.rate:g}"
    return f"{what}{f'-rows{cell.rows}' if cell.rows else ''}-seed-{cell.seed}"


def said(cell: CompareCell) -> str:
    """Say which cell it is.

    >>> said(CompareCell("sst2", "lora", "rows", 0, "search", rate=0.3))
    'sst2  lora:rows  search at rate ×0.3'
    """
    named_so = f"{cell.task}  {cell.method}{':' * bool(cell.readout)}{cell.readout}"
    if cell.role == "search":
        return f"{named_so}  search at rate ×{cell.rate:g}"
    return f"{named_so}  {f'{cell.rows} rows, ' if cell.rows else ''}seed {cell.seed}"

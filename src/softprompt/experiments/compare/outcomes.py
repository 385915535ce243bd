"""What one cell of a comparison found: a method on a task, by one seed, and the file that remembers it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from softprompt import durable
from softprompt.errors import StorageError
from softprompt.methods.costs import Forgetting, Speed


@dataclass(frozen=True)
class CompareCell:
    """Which cell.

    Attributes:
        task: its name.
        method: as `methods.catalogue` names it.
        readout: `words` or `rows`; empty: the method has no choice.
        seed: of rows' order and first values.
        role: `search` (a short training at one rate, seed 0), `main`, or `data` (on some of the training rows).
        rate: multiple of the method's own rate; 1.0 where there is none. In `main` and `data`: what the search found.
        rows: training rows used; 0: all that the comparison uses.
    """

    task: str
    method: str
    readout: str
    seed: int
    role: Literal["search", "main", "data"]
    rate: float = 1.0
    rows: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a cell found.

    Attributes:
        cell: which.
        labels: of the task, in order.
        gold, predicted: places of labels, one a test row; empty: a search cell, or it failed.
        gold_log: log-probability of the right label, one a test row, in nats.
        confidence: probability of the predicted label, one a test row.
        validation_loss: log loss on validation rows, in nats; what a search chooses by.
        trained: parameters trained; `share` of the backbone's own.
        kept_bytes: what has to be kept for the task beside the backbone.
        course: `methods.method.Course` as plain values: steps, examples, seconds, stopped, points.
        peak: of the whole process, MiB resident; loaded: before the fit.
        speed, forgetting: measured in the `main` cell of the first seed only.
        seconds: the whole cell, loading included.
        failed: why there is no figure.
        again: it failed for want of memory or was ended, and the next run tries it again.
        origin: what must be alike for cells to be compared: backbone, fingerprint, dtype, device, rows, data hashes.
        provenance: commit or version, machine, library versions.
        notes: what else a reader must know, a sentence each.
    """

    cell: CompareCell
    labels: tuple[str, ...] = ()
    gold: tuple[int, ...] = ()
    predicted: tuple[int, ...] = ()
    gold_log: tuple[float, ...] = ()
    confidence: tuple[float, ...] = ()
    validation_loss: float | None = None
    trained: int = 0
    share: float = 0.0
    kept_bytes: int = 0
    course: Mapping[str, Any] = field(default_factory=dict)
    loaded: float = 0.0
    peak: float = 0.0
    speed: Speed | None = None
    forgetting: Forgetting | None = None
    seconds: float = 0.0
    failed: str | None = None
    again: bool = False
    origin: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, file: Path) -> Outcome | None:
        """Read a cell's file; `None` where it has not ended.

        Raises:
            StorageError: the file is damaged.
        """
        if not file.exists():
            return None
        try:
            plain = json.loads(file.read_text(encoding="utf-8"))
            speed, forgetting = plain.pop("speed"), plain.pop("forgetting")
            listed: dict[str, Any] = {name: tuple(plain.pop(name)) for name in _LISTS}
            return cls(
                cell=CompareCell(**plain.pop("cell")),
                speed=speed and Speed(**speed),
                forgetting=forgetting and Forgetting(**forgetting),
                **listed,
                **plain,
            )
        except (ValueError, TypeError, KeyError) as error:
            raise StorageError(f"`{file}` is damaged ({error}); take it away, and its cell is run again") from error

    def write(self, file: Path) -> None:
        """Write it, whole or not at all."""
        durable.write_text(file, json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n")


_LISTS = ("labels", "gold", "predicted", "gold_log", "confidence", "notes")

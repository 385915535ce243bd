"""Successive halving: candidates train side by side, and at each rung those behind leave.

Jamieson & Talwalkar 2016, arXiv 1502.07943. Ours keeps the default candidate unless others beat it beyond chance,
and the winner trains on from where it stands: nothing is learned twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from softprompt.training.selection import Seen, survivors


@dataclass(frozen=True)
class Rung:
    """Where a race thins out.

    Attributes:
        step: after this many steps.
        keep: how many candidates go on.
        rows: validation rows they are judged on, the first of each one's.
    """

    step: int
    keep: int
    rows: int


@dataclass
class Race:
    """A race and how it went.

    Attributes:
        rungs: where it thins out, by step; none: everyone trains to the end.
        table: one entry a candidate and rung: name, step, validation loss, accuracy, whether it went on.
    """

    rungs: Sequence[Rung] = ()
    table: list[dict[str, Any]] = field(default_factory=list)

    def rung(self, step: int) -> Rung | None:
        """Return the rung at `step`, if there is one."""
        return next((rung for rung in self.rungs if rung.step == step), None)

    def judge(self, rung: Rung, names: Sequence[str], seen: Sequence[Seen]) -> list[int]:
        """Return who goes on, as places in `names`, and note it in the table."""
        kept = survivors([each.terms for each in seen], rung.keep)
        for place, (name, each) in enumerate(zip(names, seen, strict=True)):
            self.table.append({"candidate": name, "step": rung.step, **each.figures, "goes_on": place in kept})
        return kept


def halving(candidates: int, steps: int, rows: int) -> tuple[Rung, ...]:
    """Lay out the rungs of a race of so many candidates in a run of so many steps.

    The first rung stands at a tenth of the run and keeps half; each later one twice as far. The last rung keeps one.
    With six candidates that costs 0.6 + 0.3·… runs: candidates beyond the winner take about three quarters of one.

    Args:
        candidates: at least 1.
        steps: of the winner's whole run.
        rows: validation rows at the last rung; earlier ones take half.

    >>> [(rung.step, rung.keep) for rung in halving(6, 150, 256)]
    [(15, 3), (30, 1)]
    """
    rungs: list[Rung] = []
    step, left = max(1, steps // 10), candidates
    while left > 1 and step < steps:
        left = -(-left // 2) if left > 3 else 1
        rungs.append(Rung(step, left, rows if left == 1 else max(1, rows // 2)))
        step *= 2
    return tuple(rungs)

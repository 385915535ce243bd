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
        rows: validation rows they are judged on, drawn from each one's.
    """

    step: int
    keep: int
    rows: int


@dataclass
class Race:
    """A race and how it went.

    A candidate may run several times, once a fold: its folds are judged together and go on or leave together.

    Attributes:
        rungs: where it thins out, by step; none: everyone trains to the end.
        ends: everyone stops at the last rung, for what was raced is a choice and not a prompt.
        table: one entry a candidate and rung: name, step, validation loss, accuracy, whether it went on.
    """

    rungs: Sequence[Rung] = ()
    ends: bool = False
    table: list[dict[str, Any]] = field(default_factory=list)

    def rung(self, step: int) -> Rung | None:
        """Return the rung at `step`, if there is one."""
        return next((rung for rung in self.rungs if rung.step == step), None)

    def share(self, candidates: int, steps: int) -> float:
        """Return the share of all candidates' whole runs that is run.

        >>> round(Race(halving(4, 150, 512)).share(4, 150), 3), Race().share(3, 150)
        (0.317, 1.0)

        Args:
            candidates: how many race.
            steps: of a whole run.
        """
        done, at, left = 0, 0, candidates
        for rung in self.rungs:
            done, at, left = done + left * (rung.step - at), rung.step, rung.keep
        done += 0 if self.ends else left * (steps - at)
        return done / (candidates * steps)

    def judge(self, rung: Rung, names: Sequence[str], seen: Sequence[Seen], *, default: str) -> set[str]:
        """Return which candidates go on, and note it in the table.

        Args:
            rung: how many go on.
            names: of those that still race, once a fold.
            seen: what each did on its rows.
            default: stays unless it is beaten beyond chance; one that has left gives nobody its privilege.
        """
        folds: dict[str, list[Seen]] = {}
        for name, each in zip(names, seen, strict=True):
            folds.setdefault(name, []).append(each)
        pooled = {name: Seen.pooled(parts) for name, parts in folds.items()}
        first = [*pooled].index(default) if default in pooled else None
        places = survivors([each.terms for each in pooled.values()], rung.keep, default=first)
        kept = {name for place, name in enumerate(pooled) if place in places}
        for name, each in pooled.items():
            self.table.append({"candidate": name, "step": rung.step, **each.figures, "goes_on": name in kept})
        return kept

    @property
    def winner(self) -> str | None:
        """The one candidate that the last rung kept; None before it."""
        left = [row["candidate"] for row in self.table if row["goes_on"] and row["step"] == self.rungs[-1].step]
        return left[0] if len(left) == 1 else None


def halving(candidates: int, steps: int, rows: int) -> tuple[Rung, ...]:
    """Lay out the rungs of a race of so many candidates in a run of so many steps.

    The first rung stands at a fifteenth of the run and keeps half; each later one twice as far; the last keeps one.
    With five candidates, those that do not win take a third of a run together.

    Args:
        candidates: at least 1.
        steps: of the winner's whole run.
        rows: validation rows at the last rung; earlier ones take half.

    >>> [(rung.step, rung.keep) for rung in halving(5, 180, 512)]
    [(12, 2), (24, 1)]
    """
    rungs: list[Rung] = []
    step, left = max(1, steps // 15), candidates
    while left > 1 and step < steps:
        left //= 2
        rungs.append(Rung(step, left, rows if left == 1 else max(1, rows // 2)))
        step *= 2
    return tuple(rungs)

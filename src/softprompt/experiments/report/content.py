"""What a comparison's report holds, whatever it is written as: words, figures, and rows that tell methods apart."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from pydantic import BaseModel

from softprompt.experiments.compare.outcomes import Outcome
from softprompt.experiments.report.disagreement import Disagreement, disagreement
from softprompt.experiments.report.figures import TaskFigures, figures_of, the_soft_prompt
from softprompt.experiments.report.folder import TaskOutcomes
from softprompt.experiments.report.names import Key, amount_of_time, counted, listed
from softprompt.experiments.report.tables import (
    Table,
    data_efficiency,
    quality,
    row_counts,
    search,
    shown_rows,
    training_cost,
    use,
)
from softprompt.experiments.report.verdict import summary


@dataclass(frozen=True)
class Section:
    """A task of the report.

    Attributes:
        figures: of all methods.
        found: where the soft prompt and the others disagree.
        notes: what a reader must know of single methods and seeds, a sentence each.
    """

    figures: TaskFigures
    found: Disagreement
    notes: tuple[str, ...] = ()

    @property
    def rival(self) -> str:
        """Title of the method whose rows are shown; empty where there is none."""
        return self.found.rival.title if self.found.rival else ""

    def tables(self) -> tuple[Table, ...]:
        """Return its tables of figures, in the order of the report."""
        task = self.figures
        each = (quality(task), training_cost(task), use(task), data_efficiency(task), search(task))
        return tuple(table for table in each if table is not None and table.rows)

    def row_tables(self) -> tuple[Table, ...]:
        """Return its tables of rows that methods answer differently."""
        mine = self.figures.ours.title if self.figures.ours else ""
        said = f"{self.figures.name}: rows that only {{}} has right"
        each = (
            row_counts(self.figures, self.found),
            shown_rows(said.format(mine), self.found.ours_right, mine, self.rival),
            shown_rows(said.format(self.rival), self.found.theirs_right, mine, self.rival),
        )
        return tuple(table for table in each if table is not None)


@dataclass(frozen=True)
class Content:
    """All of a comparison's report.

    Attributes:
        summary: in sentences.
        cautions: what makes figures less comparable than they look.
        sections: task by task.
        effort: what the search and the cells took in all, told apart.
        made_with: what the figures were made with, name and value.
    """

    summary: tuple[str, ...]
    cautions: tuple[str, ...]
    sections: tuple[Section, ...]
    effort: tuple[str, ...]
    made_with: tuple[tuple[str, str], ...]

    @property
    def tasks(self) -> tuple[TaskFigures, ...]:
        """The figures of every task."""
        return tuple(section.figures for section in self.sections)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON; a figure that is not finite as null."""
        return {
            "summary": [*self.summary],
            "cautions": [*self.cautions],
            "effort": [*self.effort],
            "made_with": dict(self.made_with),
            "tasks": [_plain(section) for section in self.sections],
        }


def content_of(tasks: Sequence[TaskOutcomes], *, resamples: int = 2000) -> Content:
    """Work out the report of a comparison.

    Args:
        tasks: its outcomes.
        resamples: of the bootstrap.
    """
    ours = the_soft_prompt(tasks)
    sections = tuple(_section(task, ours, resamples) for task in tasks)
    every = [outcome for task in tasks for outcome in _outcomes(task)]
    cautions = tuple(f"{task.name}: {unlike}." for task in tasks for unlike in task.unlike)
    said = summary([section.figures for section in sections])
    return Content(said, (*_seeds(sections), *_bounded(every), *cautions), sections, _effort(every), _made_with(every))


def _section(task: TaskOutcomes, ours: Key | None, resamples: int) -> Section:
    figures = figures_of(task, ours, resamples=resamples)
    rival = figures.best_rival()
    notes = [f"{line.key.title}: {each}" for line in figures.lines for each in (*line.failures, *line.notes)]
    return Section(figures, disagreement(task, ours, rival.key if rival else None), tuple(notes))


def _outcomes(task: TaskOutcomes) -> Iterator[Outcome]:
    for entry in task.entries:
        yield from (*entry.main, *entry.failed, *entry.search, *entry.data)


def _seeds(sections: Iterable[Section]) -> tuple[str, ...]:
    """Say where chance alone is not known."""
    alone = [
        s.figures.name for s in sections if s.figures.measured and all(len(e.seeds) == 1 for e in s.figures.measured)
    ]
    if not alone:
        return ()
    return (f"One seed each on {', '.join(alone)}: how far another seed would move a figure is not known.",)


def _bounded(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Say which trainings their bounds may have cut short."""
    trained = [each for each in outcomes if each.cell.role == "main" and each.course.get("steps")]
    rows = sorted({each.origin["examples"] for each in trained if each.origin.get("examples")})
    if rows:
        most = listed([f"{count:,}" for count in rows])
        yield f"No training learned from more than {most} rows, each time counted: some methods may reach more in full."
    late = [each for each in trained if each.origin.get("seconds") and _out_of_time(each)]
    if late:
        names = listed([*dict.fromkeys(Key(each.cell.method, each.cell.readout).title for each in late)])
        yield f"Time ended trainings of {names}: on a quicker machine, or with more minutes, they may reach more."


def _out_of_time(outcome: Outcome) -> bool:
    """Whether a training took as long as it may; its last step may have been left out."""
    return bool(outcome.course.get("seconds", 0.0) >= 0.95 * outcome.origin["seconds"])


def _effort(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    said = []
    for role, what in (("search", "The search for rates"), ("main", "The main cells"), ("data", "Data efficiency")):
        cells = [outcome for outcome in outcomes if outcome.cell.role == role]
        if cells:
            time = amount_of_time(sum(outcome.seconds for outcome in cells))
            said.append(f"{what} took {time} in {counted(len(cells), 'cell')}.")
    return tuple(said)


def _made_with(outcomes: Iterable[Outcome]) -> tuple[tuple[str, str], ...]:
    """What `origin` and `provenance` say; where cells differ, all that they say."""
    found: dict[str, set[str]] = {}
    for outcome in outcomes:
        for name, value in {**outcome.provenance, **outcome.origin}.items():
            told = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
            found.setdefault(name, set()).add(told)
    return tuple((name, " · ".join(sorted(values))) for name, values in sorted(found.items()))


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _plain(value.model_dump())
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {_named(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _named(key: Any) -> str:
    return "/".join(part for part in key if part) if isinstance(key, tuple) else str(key)

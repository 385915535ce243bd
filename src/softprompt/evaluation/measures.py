"""The figures of every kind of task but classification: one list of measures, the most telling one first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from softprompt.errors import DataError
from softprompt.evaluation.figures import Difference, Interval, Record
from softprompt.evaluation.statistics import Weighted, value_of, weighted_difference, weighted_interval
from softprompt.registry import Registry
from softprompt.tasks.task import Example, Label


class Statistic(NamedTuple):
    """A measure of some answers before it is computed; `higher` tells whether more is better."""

    name: str
    of_weights: Weighted
    higher: bool = True


class Measure(Record):
    """One figure with its 95 % bootstrap interval; `higher`: more is better."""

    name: str
    value: float
    interval: Interval
    higher: bool = True


class Measures(Record):
    """The figures of one predictor on one set of rows.

    Attributes:
        kind: of the task.
        rows: how many rows.
        measures: the figures, the headline first.
    """

    kind: str
    rows: int
    measures: tuple[Measure, ...]

    @property
    def headline(self) -> Measure:
        """The figure that verdicts are about."""
        return self.measures[0]


Statistics = Callable[[Sequence[Example], Sequence[Label]], list[Statistic]]

STATISTICS: Registry[Statistics] = Registry(
    "kind of task",
    {
        "multi-label": "softprompt.evaluation.label_sets:statistics_of",
        "regression": "softprompt.evaluation.regression:statistics_of",
        "generation": "softprompt.evaluation.generated:statistics_of",
        "chat": "softprompt.evaluation.generated:statistics_of",
        "extraction": "softprompt.evaluation.extracted:statistics_of",
        "tagging": "softprompt.evaluation.spans:statistics_of",
    },
)
"""What is measured in each kind of task."""


def measure_answers(kind: str, examples: Sequence[Example], answers: Sequence[Label], *, seed: int = 0) -> Measures:
    """Return every figure of a predictor's answers, with 95 % bootstrap intervals over the rows.

    Args:
        kind: of the task; classification and choice are measured by `Evaluation`.
        examples: B labelled rows.
        answers: the predictor's answer to each, of the type that `Example.label` has.
        seed: of the resampling.

    Raises:
        DataError: no rows, or another number of answers than of rows.
        UnknownNameError: a kind that is not measured here.
        MissingExtraError: a measure of text, and the extra `text-metrics` is not installed.
    """
    measured = []
    for statistic in _statistics(kind, examples, answers):
        value = value_of(statistic.of_weights, len(examples))
        interval = weighted_interval(statistic.of_weights, len(examples), seed=seed)
        measured.append(Measure(name=statistic.name, value=value, interval=interval, higher=statistic.higher))
    return Measures(kind=kind, rows=len(examples), measures=tuple(measured))


def compare_answers(
    kind: str, examples: Sequence[Example], ours: Sequence[Label], theirs: Sequence[Label], *, seed: int = 0
) -> Difference:
    """Compare two predictors on the same rows by the headline measure, positive where `ours` is the better.

    Arguments and errors as for `measure_answers`.
    """
    first, second = (_statistics(kind, examples, answers)[0] for answers in (ours, theirs))
    if not first.higher:
        first, second = second, first
    return weighted_difference(first.of_weights, second.of_weights, len(examples), seed=seed)


def _statistics(kind: str, examples: Sequence[Example], answers: Sequence[Label]) -> list[Statistic]:
    compute = STATISTICS.get(kind)
    if not examples or len(examples) != len(answers):
        raise DataError(f"{len(examples)} rows and {len(answers)} answers; give at least one row, and each its answer")
    return compute(examples, answers)

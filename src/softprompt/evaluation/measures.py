"""The figures of every kind of task but classification: one list of measures, the most telling one first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import NamedTuple

from softprompt.errors import DataError
from softprompt.evaluation.figures import Difference, Form, Measure, Measures
from softprompt.evaluation.statistics import Weighted, value_of, weighted_difference, weighted_interval
from softprompt.registry import Registry
from softprompt.tasks.task import Example, Label


class Statistic(NamedTuple):
    """A measure of some answers before it is computed; `higher`: more is better, `form`: how it is written."""

    name: str
    of_weights: Weighted
    higher: bool = True
    form: Form = "percent"


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
WRITTEN = ("generation", "chat")
"""Kinds whose answers are free text, which other libraries measure."""


def measurable(kind: str) -> tuple[str, str]:
    """Return the kind whose figures can be had here in place of `kind`, and why others cannot.

    Generated text is measured as short answers are (exact match, F1 of words) where the libraries of its own
    measures are not installed.
    """
    if kind not in WRITTEN:
        return kind, ""
    missing = [name for name in ("sacrebleu", "rouge_score") if find_spec(name) is None]
    if not missing:
        return kind, ""
    packages = " and ".join(f"`{name.replace('_', '-')}`" for name in missing)
    install = 'pip install "softprompt[text-metrics]"'
    return "extraction", f"BLEU, chrF and ROUGE-L were not measured: they need {packages}; install with {install}"


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
        MissingExtraError: a measure of text, and the extra `text-metrics` is not installed (`measurable` tells before).
    """
    rows = len(examples)
    measures = tuple(
        Measure(
            name=statistic.name,
            value=value_of(statistic.of_weights, rows),
            interval=weighted_interval(statistic.of_weights, rows, seed=seed),
            higher=statistic.higher,
            form=statistic.form,
        )
        for statistic in _statistics(kind, examples, answers)
    )
    return Measures(kind=kind, rows=rows, measures=measures)


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

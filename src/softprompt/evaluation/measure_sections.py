"""The parts of a report card that are about answers that are not one label, as lines of plain text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

from softprompt.evaluation.figures import Measure, Measures
from softprompt.evaluation.tables import WIDTH, amount, shortened, table, wrapped, written


def measures_table(rows: Sequence[tuple[str, Measures]]) -> list[str]:
    """Lay out the figures of some predictors, as many abreast as fit the width, each with its interval."""
    left = list(range(min(len(own.measures) for _, own in rows)))
    lines: list[str] = []
    while left:
        fitting = next(n for n in range(len(left), 0, -1) if n == 1 or _width(_laid_out(rows, left[:n])) <= WIDTH)
        lines += [*([""] if lines else []), *_laid_out(rows, left[:fitting])]
        left = left[fitting:]
    return lines


def _laid_out(rows: Sequence[tuple[str, Measures]], shown: Sequence[int]) -> list[str]:
    heads = [cell for i in shown for cell in (_head(rows[0][1].measures[i]), "95 %")]
    return table(["", *heads], ([shortened(name, 24), *_cells(own, shown)] for name, own in rows))


def _width(lines: Sequence[str]) -> int:
    return max(cell_len(line) for line in lines)


def _head(measure: Measure) -> str:
    return f"{measure.name} %" if measure.form == "percent" else measure.name


def _cells(measures: Measures, shown: Sequence[int]) -> list[str]:
    return [cell for i in shown for cell in (_value(measures.measures[i]), interval(measures.measures[i]))]


def _value(measure: Measure) -> str:
    return amount(measure.value, measure.form)


def interval(measure: Measure) -> str:
    """Write a figure's interval.

    >>> from softprompt.evaluation.figures import Interval
    >>> interval(Measure(name="F1", value=0.5, interval=Interval(0.4, 0.6)))
    '40.0-60.0'
    """
    low, high = (amount(end, measure.form) for end in measure.interval)
    return f"{low} to {high}" if measure.interval.low < 0 else f"{low}-{high}"


def remarks(figures: Measures, validation: Measures | None) -> list[str]:
    """What was not measured, and the headline on validation rows, labelled for what it is."""
    said = [f"{figures.note}."] if figures.note else []
    if validation is not None:
        head = validation.headline
        numbers = f"{head.name} {written(head)} ({interval(head)})"
        said.append(f"validation, used for selection: {numbers} on {validation.rows:,} rows.")
    return [line for sentence in said for line in wrapped(sentence)]

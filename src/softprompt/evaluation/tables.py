"""Plain text for a terminal: aligned tables, wrapped lines and numbers, at most 100 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from rich.cells import cell_len

from softprompt.evaluation.figures import Form, Interval, Measure

WIDTH = 100
_GAP = "  "


def percent(share: float | None) -> str:
    """Write a share as per cent, `-` where it is not defined.

    >>> percent(0.912)
    '91.2'
    """
    return "-" if share is None else f"{share * 100:.1f}"


def percent_interval(interval: Interval) -> str:
    """Write an interval of shares as per cent.

    >>> percent_interval(Interval(0.899, 0.925))
    '89.9-92.5'
    """
    return f"{percent(interval.low)}-{percent(interval.high)}"


def points(difference: float) -> str:
    """Write a difference of shares in percentage points, with its sign.

    >>> points(-0.0213), points(0.0)
    ('-2.1', '0.0')
    """
    rounded = round(difference * 100, 1)
    return f"{rounded:+.1f}" if rounded else "0.0"


def written(measure: Measure) -> str:
    """Write a figure in its form, a share with its sign of per cent.

    >>> written(Measure(name="F1", value=0.5, interval=Interval(0.4, 0.6)))
    '50.0 %'
    """
    shown = amount(measure.value, measure.form)
    return f"{shown} %" if measure.form == "percent" else shown


def amount(value: float, form: Form) -> str:
    """Write a figure by its form.

    >>> amount(0.912, "percent"), amount(41.27, "score"), amount(0.03456, "number"), amount(1234.5, "number")
    ('91.2', '41.3', '0.0346', '1234')
    """
    if form == "number":
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return percent(value) if form == "percent" else f"{value:.1f}"


def signed(difference: float, form: Form) -> str:
    """Write a difference of figures with its sign; of shares in percentage points.

    >>> signed(-0.0213, "percent"), signed(0.25, "number"), signed(0.0, "score")
    ('-2.1', '+0.25', '0.0')
    """
    if form == "percent":
        return points(difference)
    return f"{'+' if difference > 0 else ''}{amount(difference, form)}"


_COLUMN = "\ue000"
"""Stands for a column; `printable` leaves none of these in a text."""


def printable(text: str) -> str:
    r"""Put `text` on one line, with a question mark for what could steer a terminal.

    >>> printable("a\x1b[31m\nlabel")
    'a?[31m label'
    """
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))


def shortened(text: str, width: int) -> str:
    """Cut `text` to `width` columns, on one line, the last one an ellipsis where something was cut.

    >>> shortened("card_payment_fee_charged", 12)
    'card_paymen…'
    """
    line = printable(text)
    if cell_len(line) <= width:
        return line
    while cell_len(line) > width - 1:
        line = line[:-1]
    return line + "…"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lay out cells under a header: the first column to the left, all others to the right.

    >>> table(["", "acc"], [["majority", "50.0"]])
    ['           acc', 'majority  50.0']
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(cell_len(line[column]) for line in lines) for column in range(len(header))]
    return [_laid_out(line, widths) for line in lines]


def _laid_out(line: Sequence[str], widths: Sequence[int]) -> str:
    # Pads by columns, not by characters: a Chinese sign takes two, a combining one none.
    spaces = [" " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)]
    others = (space + cell for space, cell in zip(spaces[1:], line[1:], strict=True))
    return _GAP.join([line[0] + spaces[0], *others]).rstrip()


def wrapped(text: str, indent: str = "  ") -> list[str]:
    """Break `text` into lines of at most 100 columns, all but the first indented."""
    line = printable(text)
    if not any(cell_len(sign) > 1 for sign in line):
        return textwrap.wrap(line, WIDTH, subsequent_indent=indent) or [""]
    # textwrap counts characters: a sign of two columns gets another in front, which may be parted from it.
    doubled = "".join(_COLUMN + sign if cell_len(sign) > 1 else sign for sign in line)
    return [each.replace(_COLUMN, "") for each in textwrap.wrap(doubled, WIDTH - 1, subsequent_indent=indent)] or [""]

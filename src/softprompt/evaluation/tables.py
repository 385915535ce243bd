"""Plain text for a terminal: aligned tables, wrapped lines and numbers, at most 100 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from softprompt.evaluation.figures import Interval

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


def shortened(text: str, width: int) -> str:
    """Cut `text` to `width` characters, on one line, the last one an ellipsis where something was cut.

    >>> shortened("card_payment_fee_charged", 12)
    'card_paymen…'
    """
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lay out cells under a header: the first column to the left, all others to the right.

    >>> table(["", "acc"], [["majority", "50.0"]])
    ['           acc', 'majority  50.0']
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return [_laid_out(line, widths) for line in lines]


def _laid_out(line: Sequence[str], widths: Sequence[int]) -> str:
    first = line[0].ljust(widths[0])
    others = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
    return _GAP.join([first, *others]).rstrip()


def wrapped(text: str, indent: str = "  ") -> list[str]:
    """Break `text` into lines of at most 100 columns, all but the first indented."""
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent) or [""]

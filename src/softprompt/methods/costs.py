"""What a method costs beside its training, as plain figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Speed:
    """What answering costs; every figure is a median.

    Attributes:
        latency: milliseconds until one row that comes alone is answered.
        rows: rows a second in full batches of one task.
        mixed: rows a second where rows of ten tasks come mixed; None: cannot be measured, see the notes.
        switch: milliseconds from one task to the next.
    """

    latency: float
    rows: float
    mixed: float | None
    switch: float


@dataclass(frozen=True)
class Forgetting:
    """The backbone on other text, in perplexity.

    Attributes:
        before: as it was loaded.
        off: after the fit, adaptation off.
        on: after the fit, as the method leaves the model that serves.
    """

    before: float
    off: float
    on: float

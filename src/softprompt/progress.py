"""Saying how far along a long job is: a bar on a terminal, one line an interval otherwise."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Meter:
    """How far one job is; `advance` moves it on and shows it when it is time to."""

    def __init__(self, title: str, total: int | None, every: float = 5.0) -> None:
        self._title, self._total, self._every = title, total, every
        self._done, self._shown = 0, time.monotonic()

    def advance(self, by: int = 1, note: str = "") -> None:
        """Count `by` more units done; `note` is a few words shown beside the count."""
        self._done += by
        now = time.monotonic()
        if now - self._shown >= self._every:
            self._shown = now
            self._show(note)

    def reach(self, total: int) -> None:
        """Set anew how many units there are in all: the job has become longer."""
        self._total = total

    def _show(self, note: str) -> None:
        if not speaks():
            return
        share = f"{self._done}/{self._total}" if self._total else str(self._done)
        print(f"{self._title}: {share} {note}".rstrip(), file=sys.stderr, flush=True)


class _Bar(Meter):
    """The same on a terminal, drawn in place by rich."""

    def __init__(self, title: str, total: int | None) -> None:
        super().__init__(title, total)
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self.progress.add_task(title, total=total, note="")

    def advance(self, by: int = 1, note: str = "") -> None:
        self.progress.update(self._task, advance=by, note=note)

    def reach(self, total: int) -> None:
        self.progress.update(self._task, total=total)


@contextmanager
def meter(title: str, total: int | None = None) -> Iterator[Meter]:
    """Show a job of `total` units called `title` for as long as the block runs, on standard error.

    >>> with meter("scoring", total=2) as progress:
    ...     progress.advance(2)
    """
    if not sys.stderr.isatty() or not speaks():
        yield Meter(title, total)
        return
    bar = _Bar(title, total)
    with bar.progress:
        yield bar


def say(text: str, *, everyone: bool = False) -> None:
    """Print one line of news on standard error, where it does not mix with results.

    Args:
        text: the line.
        everyone: of several processes that were started together each says it, and not only the first.
    """
    if everyone or speaks():
        print(text, file=sys.stderr, flush=True)


def speaks() -> bool:
    """Tell whether this process is the one that speaks: the first of those that a launcher started, or alone.

    >>> speaks()
    True
    """
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"

"""What a fitted method costs when it answers: alone, in batches, with ten tasks mixed, and from task to task."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING

import numpy as np

from softprompt.methods import merging
from softprompt.methods.costs import Speed
from softprompt.methods.residents import residents_of
from softprompt.methods.turns import Clock
from softprompt.tasks.task import Example, Task

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.methods.method import Fitted

TASKS = 10
"""Tasks whose rows come mixed."""
BATCH = 64
"""Rows that are given at once."""
ALONE, ROUNDS, SWITCHES = 15, 3, 20
"""Fewest rows alone, fewest rounds of batches, and switches that are timed."""
CHECKED = 16
"""Rows whose answers alone are held against those in a batch."""
TOLERANCE, HALF_TOLERANCE = 1e-3, 0.05
"""The largest difference of a probability that is none, in fp32 and in 16 bits."""
_ENOUGH_CALLS = 5_000  # of what answers in microseconds


@dataclass(frozen=True)
class Measured(Speed):
    """What answering costs, and how that was measured.

    Attributes:
        notes: where methods differ, a sentence each.
    """

    notes: tuple[str, ...] = ()


def measure_speed(
    fitted: Fitted, backbone: Backbone | None, task: Task, *, seconds: float = 20.0, clock: Clock = time.perf_counter
) -> Measured:
    """Measure how quickly a fitted method answers, from the text of a row to its probabilities.

    Rows are those of the test split, in their order. Each measurement is warmed up first, so that what a method keeps
    (a prompt's keys and values, a demonstration's) is kept. Rows of ten tasks come in turn, 64 at a time. Where answers
    depend on what else is in the batch, a note says so.

    Args:
        fitted: the method, fitted to `task`.
        backbone: what it runs on; a GPU is waited for, and adapters of PEFT are merged where one task alone is served.
        task: whose rows are answered.
        seconds: about how long it may take; the fewest repetitions are made in any case.
        clock: seconds that only rise.

    >>> from softprompt.methods.method import Fitted
    >>> from softprompt.tasks.load import load_task
    >>> class Even:
    ...     def log_probabilities(self, examples):
    ...         return np.full((len(examples), 2), np.log(0.5))
    >>> rows = [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(40)]
    >>> found = measure_speed(Fitted(Even(), 0, 0, 0.7), None, load_task(rows), seconds=0.1)
    >>> found.rows > 0, found.mixed > 0, found.notes[0]
    (True, True, 'rows of 10 tasks come mixed; those of each task are taken together')
    """
    watch = _Watch(backbone, clock)
    rows = _rows(task)
    with nullcontext(False) if backbone is None else merging.merged(backbone) as merged:
        latency, batches = _one_task(watch, fitted, rows, seconds * 3 / 5)
    residents = residents_of(fitted, TASKS)
    owners = list(islice(cycle(range(TASKS)), BATCH))
    mixed = watch.repeated(lambda n: residents.answer(owners, rows[n % 2 * BATCH :][:BATCH]), ROUNDS, seconds * 2 / 5)
    switch = watch.repeated(lambda n: residents.switch(n % TASKS), SWITCHES, 0.0)
    half = backbone is not None and backbone.dtype.itemsize < 4
    told = same_answers(fitted, rows[:CHECKED], HALF_TOLERANCE if half else TOLERANCE)
    notes = (*residents.notes, *((merging.NOTE,) if merged else ()), *((told,) if told else ()))
    return Measured(1000 * latency, BATCH / batches, BATCH / mixed, 1000 * switch, notes)


def _one_task(watch: _Watch, fitted: Fitted, rows: Sequence[Example], seconds: float) -> tuple[float, float]:
    """Seconds of a row alone, and of a full batch."""
    answer = fitted.predictor.log_probabilities
    alone = watch.repeated(lambda n: answer([rows[n % len(rows)]]), ALONE, seconds / 3)
    return alone, watch.repeated(lambda n: answer(rows[n % 2 * BATCH :][:BATCH]), ROUNDS, seconds * 2 / 3)


def same_answers(fitted: Fitted, examples: Sequence[Example], tolerance: float = TOLERANCE) -> str | None:
    """Compare the answers to rows that come alone with those to the same rows in one batch.

    Args:
        fitted: the method.
        examples: the rows, at least one.
        tolerance: the largest difference of a probability that is none; `HALF_TOLERANCE` where weights have 16 bits.

    Returns:
        A sentence that says how they differ; None: they do not.
    """
    batched = np.exp(fitted.predictor.log_probabilities(examples))
    alone = np.exp(np.concatenate([fitted.predictor.log_probabilities([example]) for example in examples]))
    most = float(np.abs(batched - alone).max())
    if most <= tolerance:
        return None
    changed = int((batched.argmax(1) != alone.argmax(1)).sum())
    return (
        f"answers depend on what else is in the batch: of {len(examples)} rows, alone and together, a probability "
        f"differs by up to {most:.3f}, and {changed} get another label"
    )


class _Watch:
    """Times calls, a GPU's work included."""

    def __init__(self, backbone: Backbone | None, clock: Clock) -> None:
        self._device = None if backbone is None else backbone.device
        self._clock = clock

    def repeated(self, call: Callable[[int], object], least: int, seconds: float) -> float:
        """Return the median seconds of a call, after a tenth of the fewest as warm-up, two at least."""
        for number in range(max(2, least // 10)):
            call(number)
        taken: list[float] = []
        spent = 0.0
        while len(taken) < least or (spent < seconds and len(taken) < _ENOUGH_CALLS):
            taken.append(self._once(call, len(taken)))
            spent += taken[-1]
        return max(statistics.median(taken), 1e-9)

    def _once(self, call: Callable[[int], object], number: int) -> float:
        self._wait()
        began = self._clock()
        call(number)
        self._wait()
        return self._clock() - began

    def _wait(self) -> None:
        if self._device is not None and self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)


def _rows(task: Task) -> list[Example]:
    """Two batches of rows; a short split is repeated."""
    split = task.splits.get("test") or task.splits["train"]
    return list(islice(cycle(split), 2 * BATCH))

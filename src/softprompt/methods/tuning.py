"""Training of whatever has a loss: AdamW in fp32, looks at validation at fixed distances, until they stop improving.

The same for every method of a comparison: its order of rows, its clipping, its plateau and its end. After a plateau of
the validation loss the best state goes on at a fifth of the rate; after a second one the training ends, and the state
of the lowest validation loss is the one that is kept.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from softprompt.backbones.hardware import is_out_of_memory
from softprompt.errors import OutOfMemoryError, TrainingError
from softprompt.methods.masters import Masters
from softprompt.methods.method import Course, Effort, Point
from softprompt.methods.pauses import Pauses
from softprompt.methods.prompt_runs import first_examples, most_examples
from softprompt.methods.token_rows import TokenRow, TokenRows
from softprompt.modeling.layout import by_length, least_work
from softprompt.progress import Meter, meter
from softprompt.shapes import Float

EPOCHS = 20
"""Times that every training row may always be learned from."""
LEAST_MOST = 4_800
"""Rows learned from, each time counted, that are always allowed: of few training rows more epochs."""
LOOKS = (240, 1_200)
"""Rows learned from between two looks at validation: an epoch, but no fewer and no more than these."""
PATIENCE, SECOND_PATIENCE = 3, 2
REDUCTION = 0.2
TOKENS = 2_048
"""Padded tokens whose graph is held at once."""
_LEAST_TOKENS = 16
_SCORED_ROWS, _SCORED_TOKENS = 64, 4_096


@runtime_checkable
class Rival(Protocol):
    """Something that learns the labels of token rows."""

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """Return what trains, with its rates, as AdamW takes it."""
        ...

    def loss(self, rows: Sequence[TokenRow]) -> Tensor:
        """Return the mean loss of some rows, with its graph."""
        ...

    def label_logits(self, rows: Sequence[TokenRow]) -> Tensor:
        """Return logits of the labels, [B, C], fp32."""
        ...


@dataclass(frozen=True)
class Plan:
    """How long and at what rate something trains; distances are counted in rows learned from, each time counted.

    Attributes:
        rate: the highest learning rate.
        every: rows between two looks at validation.
        most: rows, an end in any case.
        warmup: rows of a rising rate.
        patience: looks without a lower loss before the rate is cut; None: a plateau ends nothing.
        second_patience: the same after the cut, before the end; 0: the first plateau ends it.
        linear_to: rows at which a rate that falls in a straight line would be 0; None: constant.
        seconds: of training, an end in any case; None: no bound.
    """

    rate: float
    every: int
    most: int
    warmup: int = 0
    patience: int | None = PATIENCE
    second_patience: int = SECOND_PATIENCE
    linear_to: int | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, rows: int, labels: int | float, rate: float, effort: Effort) -> Plan:
        """Return the plan that every method of a comparison has: as long as our longest prompts, or longer.

        A part of it, as a search has, is a part of three times our prompts' first length: most trainings end long
        before their bound, and the trials of a search are to take less than what they are a search for.

        >>> Plan.of(2000, 2, 1e-3, Effort()).most, Plan.of(2000, 2, 1e-3, Effort(share=1 / 3)).most
        (40000, 4320)

        Args:
            rows: training rows.
            labels: answers to choose from, were they even.
            rate: the method's own learning rate, which `effort.rate` multiplies.
            effort: how hard the method may try.
        """
        full = max(EPOCHS * rows, LEAST_MOST, most_examples(labels, rows))
        full = full if effort.share == 1 else min(full, 3 * first_examples(labels, rows))
        most = max(1, round(effort.share * full))
        most = most if effort.examples is None else min(most, effort.examples)
        every = min(max(rows, LOOKS[0]), LOOKS[1])
        return cls(rate * effort.rate, every, most, warmup=min(every, most // 4), seconds=effort.seconds)

    def share(self, before: int, after: int, begun: int) -> float:
        """Return the share of the highest rate that a step has.

        >>> Plan(1e-3, every=100, most=1000, warmup=100).share(40, 50, 0)
        0.5

        Args:
            before: rows learned from before the step.
            after: with those of the step.
            begun: before the present phase.
        """
        rising = min(1.0, (after - begun) / self.warmup) if self.warmup else 1.0
        return rising if self.linear_to is None else rising * max(0.0, 1 - before / self.linear_to)


@dataclass
class State:
    """Where a training stands between two steps.

    Attributes:
        step: steps taken.
        seconds: of training.
        waited: looks without a lower loss.
        phase: plateaus met.
        begun: rows learned from when the phase began.
        best: the lowest validation loss, in nats.
        stopped: why it ended; empty while it goes on.
        tokens: whose graph is held at once.
    """

    step: int = 0
    seconds: float = 0.0
    waited: int = 0
    phase: int = 0
    begun: int = 0
    best: float = math.inf
    stopped: str = ""
    tokens: int = TOKENS


Watch = Callable[[Point], None]
"""Called after each look at validation, with the rival in the state that was looked at."""


def tune(
    rival: Rival,
    rows: TokenRows,
    plan: Plan,
    effort: Effort | None = None,
    *,
    title: str = "training",
    watch: Watch | None = None,
) -> Course:
    """Train something until its validation loss stops improving; it is left in its best state.

    Args:
        rival: what learns.
        rows: what it learns from and is chosen by.
        plan: how long and at what rate.
        effort: its `folder` keeps the checkpoint from which a killed training goes on, to the same numbers.
        title: what the line of progress calls it.
        watch: sees each look at validation; nothing is chosen by it.

    Returns:
        How it went; its `loss` is that of the state that is kept.

    Raises:
        TrainingError: the loss is not finite.
        OutOfMemoryError: a step does not fit in memory, however small its passes.
        StorageError: the folder cannot be written.
    """
    return Tuning(rival, rows, plan, effort or Effort(), title, watch).run()


class Tuning:
    """One training; `tune` runs it.

    Args:
        rival: what learns.
        rows: what it learns from and is chosen by.
        plan: how long and at what rate.
        effort: where it keeps its checkpoint.
        title: what the line of progress calls it.
        watch: sees each look at validation.
    """

    def __init__(
        self, rival: Rival, rows: TokenRows, plan: Plan, effort: Effort, title: str, watch: Watch | None
    ) -> None:
        self._rival, self._rows, self._plan, self._title, self._watch = rival, rows, plan, title, watch
        self._masters, self._state = Masters(rival.groups(plan.rate)), State()
        self._points: list[Point] = []
        told = {
            **rows.read_by,
            "plan": asdict(plan),
            "data": rows.task.data_hash,
            "rows": rows.count,
            "batch": rows.batch_size,
        }
        learns = {"title": title, "shapes": self._masters.shapes, "order": _digest(rows.batch(0))}
        self._pauses = Pauses(effort.folder, {**told, **learns})

    def run(self) -> Course:
        """Train to the end, from the folder's checkpoint if there is one."""
        state = self._state
        self._take_up()
        with meter(self._title, self._plan.most) as progress:
            progress.advance(self._seen)
            if not self._points:
                self._look()
            while not state.stopped:
                self._learn(progress)
                self._pause()
        self._masters.restore()
        return Course(state.step, self._seen, state.seconds, state.stopped, tuple(self._points))

    @property
    def _seen(self) -> int:
        return self._rows.examples(self._state.step)

    def _learn(self, progress: Meter) -> None:
        """Take steps until the next look at validation, and look."""
        state, goal = self._state, min((self._seen // self._plan.every + 1) * self._plan.every, self._plan.most)
        while self._seen < goal and not self._late:
            began, before = time.perf_counter(), self._seen
            loss = self._step()
            state.seconds += time.perf_counter() - began
            progress.advance(self._seen - before, f"loss {loss:.3f}, validation {state.best:.3f}")
        self._look()
        self._decide()

    @property
    def _late(self) -> bool:
        return self._plan.seconds is not None and self._state.seconds >= self._plan.seconds

    def _step(self) -> float:
        """One optimizer step; where it does not fit in memory it is done again in smaller passes."""
        state, batch = self._state, self._rows.batch(self._state.step)
        share = self._plan.share(self._seen, self._rows.examples(state.step + 1), state.begun)
        while (total := self._passes(batch)) is None:
            self._shrink()
        if not math.isfinite(total):
            raise TrainingError(
                f"the loss is {total} at step {state.step + 1}, at a learning rate of {self._plan.rate:g}; take a "
                "lower one"
            )
        self._masters.step(share * REDUCTION**state.phase)
        state.step += 1
        return total

    def _passes(self, batch: Sequence[TokenRow]) -> float | None:
        """Gather the gradients of a step; None where memory is full, with nothing left behind."""
        total = 0.0
        try:
            for part in least_work([len(row.ids) for row in batch], self._state.tokens, self._rows.pass_cost):
                loss = self._rival.loss([batch[i] for i in part]) * (len(part) / len(batch))
                loss.backward()
                total += loss.item()
            return total
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        self._masters.forget_gradients()
        return None

    def _shrink(self) -> None:
        """Hold half the tokens at once."""
        state = self._state
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        state.tokens //= 2
        if state.tokens < _LEAST_TOKENS:
            raise OutOfMemoryError(
                f"step {state.step + 1} does not fit in memory even one row at a time; take a smaller backbone or "
                "shorter rows"
            )

    def _look(self) -> None:
        """Look at validation, and keep the state if it is the best so far."""
        state = self._state
        loss, accuracy = scored(self._rival, self._rows.validation)
        state.waited += 1
        if loss < state.best:
            state.best, state.waited = loss, 0
            self._masters.keep()
        self._points.append(Point(state.step, self._seen, state.seconds, loss, accuracy))
        if not math.isfinite(loss) and not self._masters.has_kept:
            raise TrainingError(f"the validation loss is {loss} before the first step; is the backbone in order?")
        if self._watch is not None:
            self._watch(self._points[-1])

    def _decide(self) -> None:
        """After a plateau go back to the best at a lower rate; after a second one, or at a bound, end."""
        plan, state = self._plan, self._state
        patience = plan.second_patience if state.phase else plan.patience
        if self._seen >= plan.most:
            state.stopped = f"{plan.most:,} rows were learned from, the most that were planned"
        elif self._late:
            state.stopped = f"{plan.seconds:g} seconds of training, the most that were planned"
        elif patience is not None and state.waited >= patience:
            if state.phase or not plan.second_patience:
                state.stopped = "the validation loss no longer improved"
                return
            state.phase, state.begun, state.waited = 1, self._seen, 0
            self._masters.go_back()

    def _pause(self) -> None:
        """Write down where the training stands."""
        plain = {"state": asdict(self._state), "points": [asdict(point) for point in self._points]}
        self._pauses.write(self._masters.tensors, plain, must=bool(self._state.stopped))

    def _take_up(self) -> None:
        """Go on where the folder's checkpoint stands."""
        found = self._pauses.read()
        if found is None:
            return
        tensors, plain = found
        for name, value in plain["state"].items():
            setattr(self._state, name, value)
        self._points = [Point(**point) for point in plain["points"]]
        self._masters.take(tensors)


def _digest(rows: Sequence[TokenRow]) -> str:
    """What tells one order of rows from another."""
    return " ".join(f"{len(row.ids)}:{sum(row.ids)}:{row.gold}" for row in rows)


@torch.inference_mode()
def all_logits(rival: Rival, rows: Sequence[TokenRow]) -> Float[Tensor, "N C"]:
    """Return logits of the labels of some rows, in their order, on the CPU; they are run in batches of like length."""
    out: list[Tensor] = [torch.empty(0)] * len(rows)
    for part in by_length([len(row.ids) for row in rows], _SCORED_ROWS, _SCORED_TOKENS):
        for place, logits in zip(part, rival.label_logits([rows[i] for i in part]).cpu(), strict=True):
            out[place] = logits
    return torch.stack(out)


def scored(rival: Rival, rows: Sequence[TokenRow]) -> tuple[float, float]:
    """Return the mean log loss over the labels, in nats, and the accuracy of labelled rows."""
    logits, gold = all_logits(rival, rows), torch.tensor([row.gold for row in rows])
    return float(cross_entropy(logits, gold)), float((logits.argmax(1) == gold).float().mean())

"""Budgets: minutes, steps or tokens, turned once into optimizer steps and written down; and what was spent."""

from __future__ import annotations

import re
import statistics
import time
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from softprompt.errors import ConfigError
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.progress import say
from softprompt.training.bank import gradients
from softprompt.training.learner import Fit, Learner, look
from softprompt.training.lesson import Lesson
from softprompt.training.memory import Memory, add_to_plan, read_plan
from softprompt.training.parallel import World
from softprompt.training.race import halving

_WRITTEN = re.compile(
    r"\s*([0-9]+(?:\.[0-9]+)?)\s*(s|sec|seconds?|m|min|minutes?|h|hours?|steps?|tokens?|examples?)\s*"
)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_MEASURED = 4
"""Steps that are timed, behind one that warms up."""
_LOOKED_AT = 64
"""Validation rows that are timed, once the same have warmed up."""


class Budget(NamedTuple):
    """An amount of `seconds`, `steps`, `tokens` or `examples`."""

    amount: float
    unit: str


def parse(text: str) -> Budget:
    """Read a budget.

    Raises:
        ConfigError: it is not written as a number and a unit, or it is nothing.

    >>> parse("5m"), parse("200 steps")
    (Budget(amount=300.0, unit='seconds'), Budget(amount=200.0, unit='steps'))
    """
    found = _WRITTEN.fullmatch(text.lower())
    if not found or not float(found[1]) > 0:
        raise ConfigError(f"the budget is `{text}`; write it like `5m`, `90 s`, `200 steps` or `100000 tokens`")
    amount, unit = float(found[1]), found[2]
    if unit[0] in _SECONDS and not unit.startswith("step"):
        return Budget(amount * _SECONDS[unit[0]], "seconds")
    return Budget(amount, unit.rstrip("s") + "s")


def shared(text: str, count: int) -> str:
    """Return the share of each of `count` trainings that have one budget together.

    >>> shared("5m", 1), shared("5m", 6), shared("200 steps", 6)
    ('5m', '50 seconds', '33.333 steps')
    """
    budget = parse(text)
    if count == 1:
        return text
    return f"{max(budget.amount / count, 0.001):.3f}".rstrip("0").rstrip(".") + f" {budget.unit}"


@dataclass(frozen=True)
class Spent:
    """What trainings took.

    Attributes:
        examples: rows learned from, each time counted.
        seconds: spent training, validation included.
    """

    examples: int = 0
    seconds: float = 0.0

    @classmethod
    def on(cls, bank: Sequence[Fit]) -> Spent:
        """Return what a bank took, whose prompts learned side by side."""
        return cls(sum(fit.examples for fit in bank), max(fit.seconds for fit in bank))

    @classmethod
    def each(cls, bank: Sequence[Fit]) -> list[Spent]:
        """Return the part of every prompt of a bank in what it took."""
        return [cls(fit.examples, fit.seconds / len(bank)) for fit in bank]

    @classmethod
    def together(cls, parts: Iterable[Spent]) -> Spent:
        """Return the sum."""
        return sum(parts, cls())

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.examples + other.examples, self.seconds + other.seconds)


class Price(NamedTuple):
    """What one step of one prompt takes, and one validation row that is looked at, in the unit of a budget."""

    step: float = 1.0
    row: float = 0.0


STEPS = Price()
"""What a budget of steps pays: a step costs one, and looking is free."""


@dataclass(frozen=True)
class Course:
    """A race and its winner's run.

    Attributes:
        candidates: how many race; 1: nothing does.
        rows: validation rows that are looked at each time.
        every: steps between two looks; a last third of a run and its end have one more each.
    """

    candidates: int = 1
    rows: int = 0
    every: int = 50

    def cost(self, steps: int, price: Price = STEPS) -> float:
        """Return what it takes when the winner does so many steps.

        >>> Course(1).cost(150), Course(5).cost(150)
        (150.0, 200.0)
        >>> Course(1, rows=10, every=50).cost(150, Price(1.0, 0.1))
        155.0
        """
        total, left, at = 0.0, self.candidates, 0
        for rung in halving(self.candidates, steps, self.rows):
            total += left * (self._run(at, rung.step, price) + rung.rows * price.row)
            left, at = rung.keep, rung.step
        return total + left * (self._run(at, steps, price) + 2 * self.rows * price.row)

    def of_folds(self, steps: int, folds: int, price: Price) -> float:
        """Return what a race on folds of `rows` takes, which ends at its last rung."""
        total, left, at = 0.0, self.candidates, 0
        for rung in halving(self.candidates, steps, self.rows):
            total += left * (folds * (rung.step - at) * price.step + self.rows * price.row)
            left, at = rung.keep, rung.step
        return total

    def longest(self, amount: float, price: Price) -> int:
        """Return the most steps of the winner, at least 1, with which everything keeps within an amount.

        >>> Course(1).longest(60.0, STEPS), Course(4).longest(60.0, STEPS)
        (60, 48)
        """
        most = range(1, max(1, int(amount / price.step)) + 1)
        return max(1, bisect_right(most, amount, key=lambda steps: self.cost(steps, price)))

    def has_winner(self, steps: int) -> bool:
        """Tell whether a race in so many steps comes down to one candidate."""
        rungs = halving(self.candidates, steps, self.rows)
        return self.candidates == 1 or (bool(rungs) and rungs[-1].keep == 1)

    def _run(self, start: int, end: int, price: Price) -> float:
        looks = end // self.every - start // self.every
        return (end - start) * price.step + looks * self.rows * price.row


class Allowed(NamedTuple):
    """What a budget allows: the steps of the winner, and whether candidates race for them."""

    steps: int
    race: bool


def allowed(
    text: str, model: PromptedModel, trial: Lesson, field: int, plan: Path, *, folds: int = 0, raced: int = 0
) -> Allowed:
    """Return how long the winner may train, so that everything together keeps within a budget.

    A race is held where the budget is enough to bring it down to one candidate; a race on folds, whose winner starts
    again, where it also leaves the winner the steps it would have without a budget. A budget of time is measured once,
    on this machine, validations counted, and written down, so that a resumed run repeats it.

    Args:
        text: the budget as written.
        model: the frozen backbone.
        trial: the default lesson, which is measured.
        field: how many candidates could race.
        plan: the file that remembers the answer.
        folds: how many folds they would race on; 0: they would race on the validation rows.
        raced: how many rows those folds have.
    """
    known = read_plan(plan)
    if "steps" in known:
        return Allowed(int(known["steps"]), bool(known["race"]))
    world = World.here(lockstep=model.backbone.sharded)
    amount, price = _priced(parse(text), model, trial, plan, world)
    config = trial.config
    own = min(len(trial.validation), config.validation_rows)
    alone, racing = Course(1, own, config.validate_every), Course(field, own, config.validate_every)
    if folds:
        before = Course(field, raced).of_folds(config.length, folds, price)
        race = amount - before >= alone.cost(config.length, price)
        steps = alone.longest(amount - before if race else amount, price)
    else:
        steps = racing.longest(amount, price)
        race = field > 1 and racing.has_winner(steps)
        steps = steps if race else alone.longest(amount, price)
    if world.first:
        add_to_plan(plan, budget=text, unit_per_step=price.step, unit_per_row=price.row, steps=steps, race=race)
    _tell(text, steps, field, race=race, folds=folds)
    return Allowed(steps, race)


def _tell(text: str, steps: int, field: int, *, race: bool, folds: int) -> None:
    if field == 1:
        how = ""
    elif not race:
        how = ", too few for a race: the default stands"
    else:
        how = f" behind a race of {field} candidates on {folds} folds" if folds else f" with {field} candidates racing"
    say(f"a budget of {text} is {steps} steps{how}")


def _priced(budget: Budget, model: PromptedModel, trial: Lesson, plan: Path, world: World) -> tuple[float, Price]:
    """A budget's amount, less what measuring took, and the price of what it pays; of all processes together."""
    if budget.unit == "steps":
        return budget.amount, STEPS
    learner = Learner(model, trial)
    if budget.unit == "seconds":
        began = time.perf_counter()
        price = _timed(model, learner, plan, world)
        left = budget.amount - world.agreed(time.perf_counter() - began)
        return max(0.0, left), price
    shares = [learner.share(step) for step in range(_MEASURED + 1)]
    sizes = [len(share.rows) if budget.unit == "examples" else sum(len(r.ids) for r in share.rows) for share in shares]
    return budget.amount, Price(world.agreed(statistics.fmean(sizes)))


def _timed(model: PromptedModel, learner: Learner, plan: Path, world: World) -> Price:
    """Seconds of a step, done as the training does it, within the memory there is, and of a validation row."""
    memory = Memory(model.backbone, learner.config, plan, world, resume=False)

    def step(number: int) -> float:
        def passes(tokens: int) -> float:
            share = learner.share(number)
            began = time.perf_counter()
            gradients(model, [share], tokens, world)
            return time.perf_counter() - began

        return memory.within(0, passes)

    steps = [step(number) for number in range(_MEASURED + 1)]
    if len(memory.holdings) > 1 and world.first:
        add_to_plan(plan, memory=None)  # the training finds it again, and then it is part of the run
    rows = min(_LOOKED_AT, len(learner.validation))
    looks = [_look_seconds(model, learner, rows) for _ in range(2)] if rows else [0.0]
    return Price(world.agreed(statistics.median(steps[1:])), world.agreed(looks[-1] / max(1, rows)))


def _look_seconds(model: PromptedModel, learner: Learner, rows: int) -> float:
    began = time.perf_counter()
    look(model, learner, rows)
    return time.perf_counter() - began

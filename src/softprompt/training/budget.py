"""Budgets: minutes, steps or tokens, turned once into optimizer steps and written down."""

from __future__ import annotations

import re
import statistics
import time
from pathlib import Path
from typing import NamedTuple

from softprompt.errors import ConfigError
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.progress import say
from softprompt.training.bank import gradients
from softprompt.training.learner import Learner
from softprompt.training.lesson import Lesson
from softprompt.training.memory import add_to_plan, first_holding, read_plan
from softprompt.training.parallel import World
from softprompt.training.race import halving

_WRITTEN = re.compile(
    r"\s*([0-9]+(?:\.[0-9]+)?)\s*(s|sec|seconds?|m|min|minutes?|h|hours?|steps?|tokens?|examples?)\s*"
)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_MEASURED = 4
"""Steps that are timed, behind one that warms up."""


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


def race_cost(candidates: int, steps: int) -> float:
    """Return what a race and its winner's run take together, in steps of one prompt.

    >>> race_cost(1, 150), race_cost(5, 150)
    (150.0, 200.0)
    """
    total, left, at = 0.0, candidates, 0
    for rung in halving(candidates, steps, rows=1):
        total, left, at = total + left * (rung.step - at), rung.keep, rung.step
    return total + left * (steps - at)


def steps_within(text: str, model: PromptedModel, trial: Lesson, field: int, plan: Path, *, resume: bool) -> int:
    """Return how many steps the winner of a race may take, so that everything together keeps within a budget.

    A budget of time is measured once, on this machine, and written down, so that a resumed run repeats it.

    Args:
        text: the budget as written.
        model: the frozen backbone.
        trial: the default lesson, which is measured.
        field: how many candidates race.
        plan: the file that remembers the answer.
        resume: take it from there.
    """
    world = World.here(lockstep=model.backbone.sharded)
    if resume and "steps" in read_plan(plan):
        return int(read_plan(plan)["steps"])
    budget = parse(text)
    unit = 1.0 if budget.unit == "steps" else world.agreed(_step_cost(budget.unit, model, trial, world))
    steps = max(1, int(budget.amount / unit))
    while steps > 1 and race_cost(field, steps) * unit > budget.amount:
        steps -= 1
    if world.first:
        add_to_plan(plan, budget=text, unit_per_step=unit, steps=steps)
    say(f"a budget of {text} is {steps} steps" + (f" with {field} candidates racing" if field > 1 else ""))
    return steps


def _step_cost(unit: str, model: PromptedModel, trial: Lesson, world: World) -> float:
    """What one step of one prompt takes, in seconds, tokens or examples; of all processes together."""
    learner = Learner(model, trial)
    shares = [learner.share(step) for step in range(_MEASURED + 1)]
    if unit == "examples":
        return statistics.fmean(len(share.rows) for share in shares)
    if unit == "tokens":
        return statistics.fmean(sum(len(row.ids) for row in share.rows) for share in shares)
    seconds = []
    tokens = first_holding(model.backbone, trial.config).tokens
    for share in shares:
        began = time.perf_counter()
        gradients(model, [share], tokens, world)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])

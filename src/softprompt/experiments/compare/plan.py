"""Which cells a comparison has, in the order in which they run: what is cheap and tells most comes first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from softprompt.errors import ConfigError
from softprompt.experiments.compare.outcomes import CompareCell, Outcome
from softprompt.methods.method import Method
from softprompt.registry import unknown_name

MAIN = (
    "probe-hidden", "probe-sentence", "soft-prompt:words", "soft-prompt:rows", "deep-prompt:rows", "lora:rows",
    "houlsby:rows", "peft-prompt-tuning", "full:rows",
)  # fmt: skip
"""What is compared on every task, over every seed."""
QUICK = ("majority", "zero-shot", "few-shot-16", "probe-hidden", "probe-sentence", "soft-prompt:rows", "lora:rows")
"""What a quick comparison has."""
SEEDS, QUICK_SEEDS = (0, 1, 2), (0,)
RATES, QUICK_RATES = (0.3, 1.0, 3.0), (1.0,)
DATA_ROWS = (16, 64, 256)
SOME_TASKS = 2
"""Tasks that the other methods, and learning from few rows, are tried on: the first so many."""
SEARCH_SEED, SEARCH_SHARE = 0, 1 / 3

Find = Callable[[str], Method]
"""Finds a method by its name, as `methods.catalogue.method` does."""


@dataclass(frozen=True)
class Arm:
    """A line of a comparison: a method with a readout.

    Attributes:
        method: as `methods.catalogue` names it.
        readout: `words` or `rows`; empty: the method has no choice.
        family: of the method.
        searched: whether it has a rate to search.
    """

    method: str
    readout: str
    family: str
    searched: bool

    @classmethod
    def of(cls, written: str, find: Find) -> Arm:
        """Read `method` or `method:readout`; without a readout it is learned rows where the method offers them.

        Raises:
            UnknownNameError: no such method.
            ConfigError: a readout that the method does not offer.
        """
        name, _, asked = written.partition(":")
        method = find(name)
        if asked and asked not in method.readouts:
            offered = ", ".join(f"`{name}:{readout}`" for readout in method.readouts) or f"only `{name}`"
            raise ConfigError(f"`{written}` asks for a readout that the method does not offer; it offers {offered}")
        usual = "rows" if "rows" in method.readouts else next(iter(method.readouts), "")
        return cls(name, asked or usual, method.family, method.base_rate is not None)


@dataclass(frozen=True)
class Layout:
    """All cells of a comparison.

    Attributes:
        tasks: their names.
        train: training rows that the comparison uses, by task.
        arms: what is compared on every task, over every seed.
        others: what is tried with the first seed on the first two tasks.
        seeds: of the main cells; the first one is measured, too.
        rates: that are searched, as multiples of each method's own; one alone is taken without a search.
        data_rows: training rows of the cells that show what few rows are enough for.
    """

    tasks: tuple[str, ...]
    train: Mapping[str, int]
    arms: tuple[Arm, ...]
    others: tuple[Arm, ...]
    seeds: tuple[int, ...]
    rates: tuple[float, ...]
    data_rows: tuple[int, ...]

    def __post_init__(self) -> None:
        _check("seed", self.seeds, least=0)
        _check("rate", self.rates, least=1e-9)
        _check("method", [f"{arm.method}:{arm.readout}" for arm in (*self.arms, *self.others)])
        if self.data_rows:
            _check("number of rows", self.data_rows, least=1)

    def __iter__(self) -> Iterator[CompareCell]:
        """Every cell, in the order in which they run; the rate of what follows a search is 1.0 here.

        First what trains nothing, then each task with the first seed, a search right before its main cell; the other
        seeds; few rows; the other methods.
        """
        some = self.tasks[:SOME_TASKS]
        yield from self._main(self.tasks, [arm for arm in self.arms if not arm.searched], self.seeds[:1])
        yield from self._main(some, [arm for arm in self.others if not arm.searched], self.seeds[:1])
        yield from self._main(self.tasks, [arm for arm in self.arms if arm.searched], self.seeds[:1])
        yield from self._main(self.tasks, self.arms, self.seeds[1:], again=True)
        yield from self._data(some)
        yield from self._main(some, [arm for arm in self.others if arm.searched], self.seeds[:1])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def searches(self, cell: CompareCell) -> tuple[CompareCell, ...]:
        """Return the cells by which the rate of a cell is chosen; none: it is given, or there is no rate."""
        if cell.role == "search" or len(self.rates) < 2 or not self._arm(cell).searched:
            return ()
        made = (self._cell(cell.task, self._arm(cell), SEARCH_SEED, "search", rate) for rate in self.rates)
        return tuple(made)

    def family(self, cell: CompareCell) -> str:
        """Return what kind of method a cell runs."""
        return self._arm(cell).family

    def measured(self, cell: CompareCell) -> bool:
        """Tell whether speed and forgetting are measured in a cell."""
        return cell.role == "main" and cell.seed == self.seeds[0]

    def _main(
        self, tasks: Sequence[str], arms: Sequence[Arm], seeds: Sequence[int], *, again: bool = False
    ) -> Iterator[CompareCell]:
        for seed in seeds:
            for task in tasks:
                for arm in arms:
                    cell = self._cell(task, arm, seed, "main")
                    yield from () if again else self.searches(cell)
                    yield cell

    def _data(self, tasks: Sequence[str]) -> Iterator[CompareCell]:
        for task in tasks:
            for rows in [rows for rows in self.data_rows if rows < self.train[task]]:
                for arm in self.arms:
                    yield self._cell(task, arm, self.seeds[0], "data", rows=rows)

    def _cell(self, task: str, arm: Arm, seed: int, role: str, rate: float | None = None, rows: int = 0) -> CompareCell:
        given = self.rates[0] if len(self.rates) == 1 and arm.searched else 1.0
        return CompareCell(task, arm.method, arm.readout, seed, role, given if rate is None else rate, rows)  # type: ignore[arg-type]

    def _arm(self, cell: CompareCell) -> Arm:
        own = (arm for arm in (*self.arms, *self.others) if (arm.method, arm.readout) == (cell.method, cell.readout))
        return next(own)


@dataclass(frozen=True)
class Chosen:
    """What a search found.

    Attributes:
        rate: of the lowest validation loss; None: every trial failed.
        notes: what the reader of the cells at this rate must know.
        failed: why there is no rate.
        again: a trial may end otherwise in another run.
    """

    rate: float | None
    notes: tuple[str, ...] = ()
    failed: str = ""
    again: bool = False

    @classmethod
    def of(cls, trials: Sequence[Outcome]) -> Chosen:
        """Choose by validation loss; where two are alike, the lower rate.

        Args:
            trials: the search cells, at least one.
        """
        good = [trial for trial in trials if trial.failed is None and trial.validation_loss is not None]
        if not good:
            why = "; ".join(dict.fromkeys(trial.failed or "no validation loss" for trial in trials))
            again = any(trial.again for trial in trials)
            return cls(None, failed=f"every rate of its search failed: {why}", again=again)
        best = min(good, key=lambda trial: (trial.validation_loss, trial.cell.rate)).cell.rate
        return cls(best, _border(best, [trial.cell.rate for trial in trials]))


def _border(best: float, rates: Sequence[float]) -> tuple[str, ...]:
    """A best rate at the end of the grid says that the grid may be too short."""
    if min(rates) < best < max(rates):
        return ()
    where, beyond = ("highest", "higher") if best == max(rates) else ("lowest", "lower")
    tried = ", ".join(f"×{rate:g}" for rate in sorted(rates))
    return (f"its rate, ×{best:g}, is the {where} of those that were searched ({tried}): a {beyond} one may be better",)


def arms_of(methods: Sequence[str], find: Find, known: Sequence[str]) -> tuple[Arm, ...]:
    """Read a list of methods.

    Args:
        methods: `method` or `method:readout` each.
        find: finds a method by its name.
        known: all names, for an error.

    Raises:
        UnknownNameError: no such method; the nearest are offered.
        ConfigError: a readout that the method does not offer.
    """
    for written in methods:
        name = written.partition(":")[0]
        if name not in known:
            raise unknown_name("method", name, known)
    return tuple(Arm.of(written, find) for written in methods)


def _check(what: str, values: Sequence[float | str], least: float | None = None) -> None:
    if not values:
        raise ConfigError(f"the comparison has no {what}; give at least one")
    twice = next((each for each in values if list(values).count(each) > 1), None)
    if twice is not None:
        raise ConfigError(f"the {what} `{twice}` stands twice in the comparison; give it once")
    out = next((each for each in values if least is not None and not least <= float(each) < math.inf), None)
    if out is not None:
        raise ConfigError(f"the {what} `{out}` is out of range; give {'0 or more' if least == 0 else 'more than 0'}")

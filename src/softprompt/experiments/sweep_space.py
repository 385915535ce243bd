"""The search space of a sweep: which settings vary, and between what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from softprompt.errors import ConfigError
from softprompt.experiments.settings_file import read_mapping
from softprompt.registry import unknown_name
from softprompt.training.config import TrainConfig

DEFAULT = {"learning_rate": "log:0.003:0.1", "virtual_tokens": "log:5:100", "init": "text,labels,vocabulary"}
"""What is searched where nothing is said."""
FIXED = ("seed", "validation_rows", "report", "test_rows", "probe_rows", "abstain_accuracy", "checkpoint_every")
"""Settings that decide what is measured, not how good it is."""
PLAIN = ("race", "ensemble")
"""Settings that make more of a trial than one plain run."""
RANGES = ("log", "int", "float")


@dataclass(frozen=True)
class Span:
    """Numbers from `low` to `high`, both included.

    Attributes:
        low, high: the ends.
        log: equal ratios are equally likely, instead of equal differences.
        whole: only whole numbers.
    """

    low: float
    high: float
    log: bool
    whole: bool

    def to_json(self) -> dict[str, Any]:
        """Return the span as plain JSON."""
        return {"low": self.low, "high": self.high, "log": self.log, "whole": self.whole}


@dataclass(frozen=True)
class Choice:
    """Some values, in no order."""

    values: tuple[Any, ...]

    def to_json(self) -> list[Any]:
        """Return the values as plain JSON."""
        return [*self.values]


@dataclass(frozen=True)
class Space:
    """Which settings vary, and between what.

    >>> Space.read({"learning_rate": "log:0.003:0.1", "init": "text,labels"}).axes["init"]
    Choice(values=('text', 'labels'))
    """

    axes: Mapping[str, Span | Choice]

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Space:
        """Read the axes of a search space.

        Args:
            given: for each setting `log:LOW:HIGH`, `int:LOW:HIGH` or `float:LOW:HIGH`, or values: a list, or a
                text with commas.

        Raises:
            UnknownNameError: a setting that does not exist; the nearest is offered.
            ConfigError: no setting, one that may not vary, a value out of its range, or a span without inside.
        """
        if not given:
            raise ConfigError("the search space is empty; name at least one setting, as learning_rate=log:0.003:0.1")
        return cls({name: _axis(name, how) for name, how in given.items()})

    @classmethod
    def of(cls, file: Path | None, flags: Iterable[str]) -> Space:
        """Read a space from a YAML file and flags, flags on top; `DEFAULT` where neither is given.

        Raises:
            UnknownNameError, ConfigError: as for `read`; or the file cannot be read, or a flag has no `=`.
        """
        given = dict(read_mapping(file, "search space")) if file else {}
        for flag in flags:
            name, sign, how = flag.partition("=")
            if not sign or not name.strip() or not how.strip():
                raise ConfigError(f"--search is `{flag}`; write it as learning_rate=log:0.003:0.1 or init=text,labels")
            given[name.strip().replace("-", "_")] = how.strip()
        return cls.read(given or DEFAULT)

    def to_json(self) -> dict[str, Any]:
        """Return the space as plain JSON."""
        return {name: axis.to_json() for name, axis in self.axes.items()}


def values_of(text: str) -> list[Any]:
    """Read values with commas between them, each as YAML would.

    >>> values_of("text, 5, 0.1, {rank: 8}")
    ['text', 5, 0.1, {'rank': 8}]

    Raises:
        ConfigError: this is no list of values.
    """
    import yaml

    try:
        found: list[Any] = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError as error:
        raise ConfigError(f"`{text}` cannot be read as values with commas between them; write a,b,c") from error
    return found


def _axis(name: str, how: Any) -> Span | Choice:
    if name not in TrainConfig.model_fields:
        raise unknown_name("option", name, TrainConfig.model_fields)
    if name in FIXED:
        raise ConfigError(f"`{name}` may not vary: the trials of a sweep are compared on one measure; fix it instead")
    if name in PLAIN:
        raise ConfigError(f"`{name}` may not vary: each trial of a sweep is one plain run; take it out of the search")
    if name == "init_prompt":
        raise ConfigError("`init_prompt` may not vary: a sweep opens one prompt at most; run a sweep for each")
    kind, sign, ends = str(how).partition(":")
    if sign and not isinstance(how, list | dict):
        return _span(name, kind, ends)
    return _choice(name, how if isinstance(how, list) else values_of(str(how)))


def _span(name: str, kind: str, ends: str) -> Span:
    if kind not in RANGES:
        raise unknown_name("kind of range", kind, RANGES)
    found = values_of(ends.replace(":", ","))
    if len(found) != 2 or not all(isinstance(end, int | float) for end in found):
        raise ConfigError(f"`{name}` is `{kind}:{ends}`; write its two ends as {kind}:LOW:HIGH, for instance int:5:100")
    low, high = found
    for end in found:
        TrainConfig.read(**{name: end})
    if low >= high:
        raise ConfigError(f"`{name}` goes from {low} to {high}, and nothing lies between; put the lower end first")
    if kind == "log" and low <= 0:
        raise ConfigError(f"`{name}` goes from {low}, which has no logarithm; start above 0, or write float:{ends}")
    whole = _is_whole(name)
    if kind == "float" and whole:
        raise ConfigError(f"`{name}` takes whole numbers; write int:{ends}")
    return Span(low, high, kind == "log", kind == "int" or whole)


def _choice(name: str, values: list[Any]) -> Choice:
    if len(values) < 2:
        raise ConfigError(f"`{name}` has {len(values)} value(s) to choose from; give at least two, or fix it as a flag")
    for value in values:
        TrainConfig.read(**{name: value})
    return Choice(tuple(values))


def _is_whole(name: str) -> bool:
    kind = TrainConfig.model_fields[name].annotation
    return kind is int or int in get_args(kind)

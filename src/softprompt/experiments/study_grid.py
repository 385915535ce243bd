"""What a study trains: one setting at several values, over several seeds and backbones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from softprompt.errors import ConfigError
from softprompt.experiments.folder import named
from softprompt.methods.catalogue import METHODS
from softprompt.registry import unknown_name
from softprompt.tasks.task import Task
from softprompt.tasks.template import Template
from softprompt.training.config import TrainConfig


@dataclass(frozen=True)
class Kind:
    """A kind of study: what varies in it.

    Attributes:
        varies: what that is, for a person; it names the horizontal axis.
        field: the setting of training that it is; `None`: the template, or the backbone.
        values: what it takes where nothing is said; empty: the backbones.
        log: equal ratios lie equally far apart.
        origin: where such a curve was first drawn.
    """

    varies: str
    field: str | None
    values: tuple[Any, ...]
    log: bool
    origin: str


_LESTER = "Lester et al. 2021, arXiv 2104.08691"
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "length": Kind("virtual tokens", "virtual_tokens", (1, 5, 20, 50, 100), True, f"{_LESTER}, figure 3a"),
        "init": Kind("start of the prompt", "init", ("random", "vocabulary", "labels", "text"), False,
                     f"{_LESTER}, figure 3b"),
        "placement": Kind("place of the prompt", None, ("prefix", "infix", "suffix", "interleaved"), False,
                          "P-tuning, arXiv 2103.10385"),
        "size": Kind("parameters of the backbone", None, (), True, f"{_LESTER}, figure 1"),
        "seeds": Kind("seed", "seed", tuple(range(10)), False, "PPT, arXiv 2109.04332"),
        "rate": Kind("learning rate relative to the embeddings' RMS", "learning_rate",
                     (0.002, 0.005, 0.01, 0.02, 0.05, 0.1), True, "softprompt"),
    }
)  # fmt: skip
"""The studies by name."""


@dataclass(frozen=True)
class Cell:
    """One training of a study.

    Attributes:
        backbone: its name.
        value: of what varies; the backbone's name in a study of sizes.
        seed: of the training.
        method: what is trained beside soft prompts, as `methods.catalogue` names it; empty: a soft prompt.
    """

    backbone: str
    value: Any
    seed: int
    method: str = ""

    @property
    def name(self) -> str:
        """What it is called in news and as a path."""
        beside = f"{named(self.method)}-" if self.method else ""
        return f"{named(self.backbone)}/{named(str(self.value))}/{beside}seed-{self.seed}"


@dataclass(frozen=True)
class Grid:
    """The cells of a study.

    Attributes:
        kind: its name.
        backbones: names, in the order of the figure.
        values: of what varies.
        seeds: of each value.
        beside: methods that are trained beside soft prompts, in a study of sizes.
    """

    kind: str
    backbones: tuple[str, ...]
    values: tuple[Any, ...]
    seeds: tuple[int, ...]
    beside: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        kind: str,
        backbones: Sequence[str],
        task: Task,
        values: Sequence[Any] | None = None,
        seeds: Sequence[int] = (0, 1, 2),
        beside: Sequence[str] = (),
    ) -> Grid:
        """Lay out a study.

        Args:
            kind: one of `KINDS`.
            backbones: names, at least one; in a study of sizes they are what varies.
            task: whose template says which placements there are.
            values: of what varies; by default the kind's.
            seeds: of each value; a study of seeds has its values instead.
            beside: methods that are trained beside soft prompts; in a study of sizes only.

        Raises:
            UnknownNameError: a kind, a placement or a method that does not exist.
            ConfigError: a value out of range, twice the same, none at all; or a placement that the template lacks.
        """
        if kind not in KINDS:
            raise unknown_name("study", kind, KINDS)
        if kind != "size" and beside:
            raise ConfigError(f"`{beside[0]}` is to train beside prompts, which is for a study of sizes; leave it out")
        if kind == "size" and values:
            raise ConfigError("a study of sizes has its backbones for values; name those, and no others")
        taken = tuple(values) if values else _default_values(kind, task)
        taken = taken if kind != "size" else tuple(backbones)
        for value in taken:
            _check(kind, value, task)
        grid = cls(kind, tuple(backbones), taken, () if kind == "seeds" else tuple(seeds), tuple(beside))
        for method in grid.beside:
            if method not in METHODS:
                raise unknown_name("method", method, METHODS)
        named_lists = {"backbones": grid.backbones, "values": grid.values, "seeds": grid.seeds, "methods": grid.beside}
        for name, given in named_lists.items():
            _refuse_doubles(name, given)
        if kind != "seeds" and not grid.seeds:
            raise ConfigError("the study has no seeds; give at least one")
        for seed in grid.seeds:
            TrainConfig.read(seed=seed)
        return grid

    def __iter__(self) -> Iterator[Cell]:
        """Every cell, backbone by backbone, so that each is loaded once."""
        for backbone in self.backbones:
            for value in (backbone,) if self.kind == "size" else self.values:
                for method in ("", *self.beside):
                    for seed in (value,) if self.kind == "seeds" else self.seeds:
                        yield Cell(backbone, value, seed, method)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def settings_of(kind: str, cell: Cell) -> dict[str, Any]:
    """Return the settings of training that a cell has of its own."""
    field = KINDS[kind].field
    return {"seed": cell.seed, **({field: cell.value} if field else {})}


def task_of(kind: str, cell: Cell, task: Task) -> Task:
    """Return the task as a cell sees it: with its own template, in a study of placements."""
    return replace(task, template=placed(task.template, cell.value)) if kind == "placement" else task


def placed(template: Template, place: str) -> Template:
    r"""Return a template whose virtual tokens stand elsewhere, and whose text is the same.

    >>> placed(Template("{bos}{soft}Text: {text}\nLabel:"), "suffix").pattern
    '{bos}Text: {text}{soft}\nLabel:'

    Args:
        template: any.
        place: `prefix`: behind `{bos}`; `suffix`: behind the last field; `infix`: between the first field and the
            second; `interleaved`: both the first and the second of these.

    Raises:
        UnknownNameError: no such place.
        ConfigError: `infix` with one field.
    """
    known = KINDS["placement"].values
    if place not in known:
        raise unknown_name("placement", place, known)
    bare = _SLOT.sub(lambda slot: "" if _name(slot) == "soft" else slot[0], template.pattern)
    slots = [(_name(slot), slot.end()) for slot in _SLOT.finditer(bare)]
    behind = [end for name, end in slots if name in template.fields]
    if place == "infix" and len(behind) < 2:
        raise ConfigError(f"the template `{template.pattern}` has one field, and nothing lies between; leave out infix")
    front = max((end for name, end in slots if name == "bos" and end < behind[0]), default=0)
    where = {
        "prefix": [front], "infix": [behind[0]], "suffix": [behind[-1]], "interleaved": [front, behind[-1]]
    }[place]  # fmt: skip
    ends = [0, *where, len(bare)]
    return replace(template, pattern="{soft}".join(bare[start:end] for start, end in pairwise(ends)))


_SLOT = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


def _name(slot: re.Match[str]) -> str | None:
    """The name in a slot; a doubled brace has none."""
    return None if slot[1] is None else slot[1].strip()


def _default_values(kind: str, task: Task) -> tuple[Any, ...]:
    one_field = len(task.template.fields) < 2
    return tuple(v for v in KINDS[kind].values if not (kind == "placement" and v == "infix" and one_field))


def _check(kind: str, value: Any, task: Task) -> None:
    field = KINDS[kind].field
    if field:
        TrainConfig.read(**{field: value})
    if kind == "placement":
        placed(task.template, str(value))


def _refuse_doubles(name: str, given: Sequence[Any]) -> None:
    twice = next((each for each in given if list(given).count(each) > 1), None)
    if twice is not None:
        raise ConfigError(f"`{twice}` stands twice among the {name} of the study; name it once")

"""Recipes: the settings of papers in our terms, each with its source and what differs from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from softprompt.errors import ConfigError
from softprompt.experiments.settings_file import read_mapping
from softprompt.registry import unknown_name
from softprompt.training.config import TrainConfig

PENDING: frozenset[str] = frozenset()
"""Settings that recipes name and training does not have yet: `Recipe.missing` says which of them a recipe needs."""
_KEYS = frozenset({"title", "paper", "backbones", "settings", "variants", "notes"})
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Recipe:
    """Settings with their source.

    Attributes:
        name: what it is loaded by: `lester-2021-base`, or `p-tuning-v2-roberta/rte` for one of its variants.
        title: one line.
        settings: for `TrainConfig`, by name.
        backbone: hub id or packaged name it was made for; `None`: any.
        backbones: all that the paper used and that it suits.
        paper: `title`, `authors`, `arxiv`, and what the paper says in its own terms.
        notes: where our terms differ from the paper's, one sentence each.
        variants: names of the variants it has.
    """

    name: str
    title: str
    settings: Mapping[str, Any]
    backbone: str | None = None
    backbones: tuple[str, ...] = ()
    paper: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """Settings that this version of training does not have."""
        return tuple(sorted(set(self.settings) - set(TrainConfig.model_fields)))

    def config(self, embedding_rms: float | None = None, **overrides: Any) -> TrainConfig:
        """Return the settings, ready for training.

        Args:
            embedding_rms: of the backbone's embeddings. Where it is given, and the paper states the rate of prompts
                that stand at the input, that rate is made relative to it: rate / RMS(E).
            overrides: settings on top; those that are `None` do not count.

        Raises:
            ConfigError: the recipe needs settings that this version does not have, or one is out of range.
            UnknownNameError: an option that does not exist.
        """
        if self.missing:
            raise ConfigError(
                f"the recipe `{self.name}` needs {', '.join(f'`{name}`' for name in self.missing)}, which this version "
                "of softprompt does not have; take a recipe without, or its other settings from `recipes show`"
            )
        rate = self.relative_rate(embedding_rms) if embedding_rms else None
        given = {"learning_rate": rate, **overrides}
        return TrainConfig.read(**{**self.settings, **{k: v for k, v in given.items() if v is not None}})

    def relative_rate(self, embedding_rms: float) -> float | None:
        """Return the paper's rate relative to the RMS of some embeddings; `None` where it has none for the input."""
        stated = self.paper.get("input_rate")
        return None if stated is None else float(stated) / embedding_rms

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as plain JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "backbones": [*self.backbones],
            "settings": dict(self.settings),
            "missing": [*self.missing],
            "paper": dict(self.paper),
            "notes": [*self.notes],
            "variants": [*self.variants],
        }


def shipped() -> tuple[str, ...]:
    """Return the names of the recipes that come with the package.

    >>> "default" in shipped()
    True
    """
    found = (_plain_name(file.name) for file in _room().iterdir() if file.name.endswith(_SUFFIXES))
    return tuple(sorted(found))


def all_recipes() -> Iterator[Recipe]:
    """Load every shipped recipe, each followed by its variants."""
    for name in shipped():
        recipe = load_recipe(name)
        yield recipe
        yield from (load_recipe(f"{name}/{variant}") for variant in recipe.variants)


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Load a shipped recipe by name, or one from a file.

    >>> load_recipe("default").settings
    {}

    Args:
        name_or_path: `ulpt-t5-base`, a variant of one such as `p-tuning-v2-roberta/rte`, or a path to a YAML file
            (`mine.yaml`).

    Raises:
        UnknownNameError: no recipe, or no variant, of that name; the nearest is offered.
        ConfigError: the file cannot be read, or is no recipe.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(_SUFFIXES):
        path = Path(name_or_path).expanduser()
        return _recipe(_plain_name(path.name), read_mapping(path, "recipe"), None)
    name, _, variant = text.partition("/")
    if name not in (known := shipped()):
        raise unknown_name("recipe", name, known)
    return _recipe(name, read_mapping(_Resource(_room() / f"{name}.yaml"), "recipe"), variant or None)


class _Resource:
    """A file inside the package, called by its name in messages."""

    def __init__(self, file: Traversable) -> None:
        self._file = file

    def __str__(self) -> str:
        return self._file.name

    def read_text(self, encoding: str | None = None) -> str:
        return self._file.read_text(encoding=encoding)


def _room() -> Traversable:
    return files("softprompt") / "recipes"


def _recipe(name: str, data: Mapping[str, Any], variant: str | None) -> Recipe:
    for key in data:
        if key not in _KEYS:
            raise unknown_name("part of a recipe", key, _KEYS)
    variants = _mapping(name, data, "variants")
    settings = dict(_mapping(name, data, "settings"))
    title = str(data.get("title", name))
    if variant is not None:
        if variant not in variants:
            raise unknown_name(f"variant of the recipe `{name}`", variant, variants)
        settings |= dict(_mapping(f"{name}/{variant}", variants, variant))
        name, title, variants = f"{name}/{variant}", f"{title}: {variant}", {}
    _refuse_unknown(settings)
    backbones = tuple(map(str, data.get("backbones") or ()))
    return Recipe(
        name=name,
        title=title,
        settings=settings,
        backbone=backbones[0] if backbones else None,
        backbones=backbones,
        paper=_mapping(name, data, "paper"),
        notes=tuple(map(str, data.get("notes") or ())),
        variants=tuple(variants),
    )


def _mapping(name: str, data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = data.get(key) or {}
    if not isinstance(found, dict):
        raise ConfigError(f"`{key}` of the recipe `{name}` is {found!r}; write `name: value`, one a line")
    return found


def _refuse_unknown(settings: Mapping[str, Any]) -> None:
    known = {*TrainConfig.model_fields, *PENDING}
    for name in settings:
        if name not in known:
            raise unknown_name("option", name, known)
    TrainConfig.read(**{name: value for name, value in settings.items() if name in TrainConfig.model_fields})


def _plain_name(file: str) -> str:
    return file.removesuffix(".yaml").removesuffix(".yml")

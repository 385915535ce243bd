"""Flags from a settings model: each field is one flag, so that YAML, flag and Python argument cannot drift apart.

What several verbs take besides is a table of flags, written once.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

F = TypeVar("F", bound=Callable[..., None])
Flags = Mapping[str, tuple[Any, Any]]
"""Flags that several verbs have: by name, the type and the `typer.Option`."""
NOT_OF_EXPERIMENTS = (
    "race", "extend", "ensemble", "report", "test_rows", "probe_rows", "abstain_accuracy",
)  # fmt: skip
"""Settings without a flag where many trainings are compared: each is one plain run without a report."""
PANEL = "Settings: flag = line of the YAML file = Python argument"


class NoSettings(BaseModel):
    """No settings at all, for a verb that only reads a task, or whose methods have settings of their own."""


def with_settings(
    model: type[BaseModel], shared: Flags | None = None, *, without: Collection[str] = ()
) -> Callable[[F], F]:
    """Give a verb a flag for every field of `model`; those that are not used arrive as `None`.

    Args:
        model: the settings; name, type, description and default of each field make its flag.
        shared: more flags, which come first in the help.
        without: fields that get no flag, for the verb has no use for them.

    Returns:
        A decorator for a function that takes all of them as `**settings`.
    """

    def decorate(function: F) -> F:
        known = inspect.signature(function, eval_str=True)
        own = [p for p in known.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        named = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own if p.default is not p.empty]
        first = [p for p in own if p.default is p.empty]
        flags = [_keyword(name, *flag) for name, flag in (shared or {}).items()]
        added = [_parameter(name, field) for name, field in model.model_fields.items() if name not in without]
        signature = inspect.Signature([*first, *flags, *named, *added], return_annotation=None)
        function.__signature__ = signature  # type: ignore[attr-defined]
        function.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()} | {"return": None}
        return function

    return decorate


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    kind: Any = field.annotation
    given = _without_none(kind)
    pairs = typing.get_origin(kind) is dict
    flag = "--" + name.replace("_", "-")
    flags = f"{flag}/--no-{flag.removeprefix('--')}" if kind in (bool, bool | None) else flag
    option = typer.Option(
        None,
        flags,
        help=_sentence(field),
        show_default=False,
        rich_help_panel=PANEL,
        metavar="K=V" if pairs else _METAVARS.get(given, "STR"),  # longer ones would cut the flags' names
    )
    return _keyword(name, list[str] | None if pairs else kind | None, option)


_METAVARS = {bool: " ", int: "N", float: "X"}


def _without_none(kind: Any) -> Any:
    """The type of a setting that may be left out, as `int` of `int | None`."""
    given = [each for each in typing.get_args(kind) if each is not type(None)]
    return given[0] if len(given) == 1 and type(None) in typing.get_args(kind) else kind


def _keyword(name: str, annotation: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=annotation)


def _sentence(field: FieldInfo) -> str:
    text = field.description or ""
    names = typing.get_args(_without_none(field.annotation))
    if names and all(isinstance(name, str) for name in names):
        text += f": {' | '.join(names)}"
    default = "" if field.default in (None, {}) else f" Default: {str(field.default).lower()}."
    return f"{text[:1].upper()}{text[1:]}.{default}"

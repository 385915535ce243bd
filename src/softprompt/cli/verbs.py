"""Verbs that are loaded when they are typed, so that `softprompt --help` shows all of them and loads none."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from typer import Context


class Verb(NamedTuple):
    """A verb, or a group of verbs, that has not been loaded.

    Attributes:
        home: `package.module:attribute` of its function, or of its `typer.Typer`.
        help: its line in the help above it: the first of its own help, in the same words.
    """

    home: str
    help: str

    def load(self, name: str, markup: Any = None) -> Any:
        """Import the verb's module and return the command that Typer makes of it.

        >>> Verb("softprompt.cli.tasks:app", "").load("tasks").list_commands(None)
        ['list', 'show']
        """
        module, _, attribute = self.home.partition(":")
        found = getattr(import_module(module), attribute)
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=markup)
        if isinstance(found, typer.Typer):
            alone.add_typer(found, name=name)
        else:
            alone.command(name)(found)
        return typer.main.get_group(alone).commands[name]


class _Unopened(TyperCommand):
    """What stands for a verb until it is typed, or until its own help or completions are asked for."""

    def __init__(self, name: str, verb: Verb, markup: Any) -> None:
        super().__init__(name, help=verb.help, rich_markup_mode=markup)
        self._verb = verb

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Context:
        """Load the verb: the context, and so all that follows, is its own."""
        assert self.name is not None, "a verb of a group has a name"
        loaded = self._verb.load(self.name, self.rich_markup_mode)
        made: Context = loaded.make_context(info_name, args, parent, **extra)
        return made


class Verbs(TyperGroup):
    """A group whose verbs are a table; a verb is loaded when it is typed.

    Attributes:
        verbs: the table, by name, in the order of the help.
    """

    verbs: ClassVar[Mapping[str, Verb]] = {}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, verb in self.verbs.items():
            self.add_command(_Unopened(name, verb, self.rich_markup_mode))

"""Names to things, with the nearest known name when one is mistyped."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Generic, TypeVar

from softprompt.errors import UnknownNameError

T = TypeVar("T")
_SHOWN = 100
"""Names that an error lists at most."""


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three of `known` that look most like `name`, best first.

    >>> nearest("sentimnet", ["spam", "sentiment"])
    ['sentiment']
    """
    return difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Build the error for a `kind` of thing that has no entry called `name`.

    >>> print(unknown_name("task", "smsspam", ["sms-spam"]))
    unknown task `smsspam`; did you mean `sms-spam`?
    """
    names = sorted(known)
    near = nearest(name, names)
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")
    hint = "did you mean " + " or ".join(f"`{n}`" for n in near) + "?" if near else f"known: {shown or 'none'}"
    return UnknownNameError(f"unknown {kind} `{name}`; {hint}")


class Registry(Generic[T]):
    """A table of names; entries given as `"module:attribute"` are imported only when asked for.

    >>> numbers = Registry("number", {"pi": 3.14})
    >>> numbers.get("pi")
    3.14
    """

    def __init__(self, kind: str, entries: dict[str, T | str] | None = None) -> None:
        self.kind = kind
        self._entries: dict[str, T | str] = dict(entries or {})

    def register(self, name: str, entry: T | str) -> None:
        """Add `entry` under `name`; a lazy entry is written `"package.module:attribute"`."""
        self._entries[name] = entry

    def get(self, name: str) -> T:
        """Return the entry called `name`.

        Raises:
            UnknownNameError: nothing carries that name; the message offers the nearest.
        """
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries)
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            entry = getattr(import_module(module), attribute)
            self._entries[name] = entry
        return entry

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

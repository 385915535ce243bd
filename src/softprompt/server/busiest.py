"""Which of many names are used most, counted in a fixed amount of memory."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

CANDIDATES = 4
"""Names that are counted without standing out, for each one that may."""
AGING = 20_000
"""Uses after which all counts are halved, so that what was busy long ago gives way."""


class Busiest:
    """Names the `most` busiest names by themselves and all others together.

    A name that stands out gives way only to one that was used twice as often of late, so that names do not come and
    go at random.

    Args:
        most: names that stand out, from 0 up.
        forget: called with each name that stands out no more.

    >>> busiest = Busiest(1, forget=print)
    >>> busiest.use("sentiment"), busiest.use("spam"), busiest.stands_out("spam")
    (True, False, False)
    """

    def __init__(self, most: int, forget: Callable[[str], None]) -> None:
        self._most, self._forget = most, forget
        self._known: dict[str, int] = {}
        self._others: dict[str, int] = {}
        self._uses, self._lock = 0, Lock()

    def stands_out(self, name: str) -> bool:
        """Tell whether a name is one of the busiest."""
        return name in self._known

    def use(self, name: str) -> bool:
        """Count one use of a name and tell whether it is one of the busiest."""
        with self._lock:
            self._age()
            if name in self._known or len(self._known) < self._most:
                self._known[name] = self._known.get(name, 0) + 1
                return True
            return self._most > 0 and self._rises(name)

    def _rises(self, name: str) -> bool:
        """Count a use of one that does not stand out; tell whether it does from now on."""
        if name not in self._others and len(self._others) >= CANDIDATES * self._most:
            del self._others[min(self._others, key=self._others.__getitem__)]
        count = self._others[name] = self._others.get(name, 0) + 1
        least = min(self._known, key=self._known.__getitem__)
        if count <= 2 * self._known[least] + 8:
            return False
        self._others[least] = self._known.pop(least)
        self._known[name] = self._others.pop(name)
        self._forget(least)
        return True

    def _age(self) -> None:
        self._uses += 1
        if self._uses % AGING == 0:
            self._known = {name: count // 2 for name, count in self._known.items()}
            self._others = {name: count // 2 for name, count in self._others.items() if count > 1}

"""Whose turn it is: names take turns by tokens of work, and within a name the first to come is the first to go.

Deficit round robin (Shreedhar & Varghese, ACM SIGCOMM 1995), with two changes. A name may go into debt for an item
that costs more than its turn, and waits turns until it is paid, so that nothing needs to be looked at twice. And a name
that comes anew is served before those that have been asking for long (as in FQ-CoDel, RFC 8290, 4.1), so that a rare
request does not wait for a turn of everyone.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

QUANTUM = 256
"""Tokens of work a turn."""


@dataclass(eq=False)
class _Line(Generic[T]):
    """The items of one name, first come first, with what each costs; and how much work the name may still ask for."""

    name: str
    credit: float
    items: OrderedDict[T, float] = field(default_factory=OrderedDict)


class Turns(Generic[T]):
    """Items waiting under names; adding, taking out and drawing cost the same however many there are.

    Between names that always have something waiting, the work drawn differs by at most one turn and one item each.

    Args:
        quantum: work that a name may ask for in each of its turns, above 0.

    >>> turns = Turns[str](quantum=10)
    >>> for n in range(3):
    ...     turns.add("many", f"many {n}", cost=10)
    >>> turns.add("few", "few 0", cost=10)
    >>> [turns.draw() for _ in range(4)]
    ['many 0', 'few 0', 'many 1', 'many 2']
    """

    def __init__(self, quantum: float = QUANTUM) -> None:
        self._quantum = quantum
        self._lines: dict[str, _Line[T]] = {}
        self._new: deque[_Line[T]] = deque()
        self._old: deque[_Line[T]] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, name: str, item: T, cost: float) -> None:
        """Let `item`, which is hashable and not waiting yet, wait under `name`; `cost` is its work, above 0."""
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = _Line(name, self._quantum)
            self._new.append(line)
        line.items[item] = cost
        self._count += 1

    def discard(self, name: str, item: T) -> bool:
        """Take `item` out without a turn; return whether it was waiting."""
        line = self._lines.get(name)
        if line is None or item not in line.items:
            return False
        del line.items[item]
        self._drawn()
        return True

    def draw(self) -> T:
        """Take out and return the item whose turn it is.

        Raises:
            IndexError: nothing is waiting.
        """
        if not self._count:
            raise IndexError("nothing is waiting")
        while True:
            line = (self._new or self._old)[0]
            if line.credit > 0 and line.items:
                item, cost = line.items.popitem(last=False)
                line.credit -= cost
                self._drawn()
                return item
            self._next(line)

    def _drawn(self) -> None:
        """Count an item out; behind the last all names are forgotten, for nobody is left who could be overtaken."""
        self._count -= 1
        if not self._count:
            self._lines.clear()
            self._new.clear()
            self._old.clear()

    def _next(self, line: _Line[T]) -> None:
        """End the turn of the name that has it.

        One that has nothing waiting stays for a round, so that it cannot come anew before the others had their turns,
        and longer while it is in debt.
        """
        ring = self._new or self._old
        ring.popleft()
        if ring is self._old and not line.items and line.credit >= 0:
            del self._lines[line.name]
            return
        line.credit = min(line.credit + self._quantum, self._quantum)
        self._old.append(line)

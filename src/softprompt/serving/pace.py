"""How fast an engine is, measured while it works."""

from __future__ import annotations

_MEMORY = 0.8
"""Of what was measured before that stays at each new measurement."""
_COMPANY = 0.1
"""Share of a pass's time for which an idle engine may wait for more requests once one came."""
_WINDOW = 10.0
"""Seconds over which ends of requests are counted."""


class Mean:
    """A running mean in which the latest measurements count most; `None` before the first.

    >>> mean = Mean()
    >>> mean.add(2.0)
    >>> mean.value
    2.0
    """

    def __init__(self) -> None:
        self.value: float | None = None

    def add(self, value: float) -> None:
        """Take a measurement in."""
        self.value = value if self.value is None else _MEMORY * self.value + (1 - _MEMORY) * value


class Pace:
    """What one engine's passes and steps have taken, and how many requests end a second.

    Args:
        pause: seconds for which new rows may always hold up those in flight.
    """

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._token, self._step, self._pass = Mean(), Mean(), Mean()
        self._since: float | None = None
        self._last: float | None = None
        self._ended, self._rate = 0.0, 0.0

    def passed(self, tokens: int, seconds: float) -> None:
        """Learn what a pass over new rows took, padding counted."""
        self._token.add(seconds / max(tokens, 1))
        self._pass.add(seconds)

    def stepped(self, seconds: float) -> None:
        """Learn what a step of the rows in flight took."""
        self._step.add(seconds)

    def allowance(self, most: int) -> int:
        """Return how many tokens of new rows may be run before the next step of the rows in flight.

        As many as take two such steps, or the pause if that is longer: rows in flight go on at a third of their pace at
        least, and where steps are quick nobody sees that they waited.

        Args:
            most: never more than this; an eighth of it while nothing is measured.
        """
        if self._token.value is None:
            return max(1, most // 8)
        seconds = max(self._pause, 2 * (self._step.value or 0.0))
        return max(1, min(most, int(seconds / max(self._token.value, 1e-9))))

    def company(self, least: float) -> float:
        """Return for how many seconds an idle engine may wait for more requests: `least`, or a tenth of a pass.

        Those that were answered together ask again together, and are better served in one pass than in two.
        """
        return max(least, _COMPANY * (self._pass.value or 0.0))

    def begins(self, now: float) -> None:
        """Learn that there is work from the time `now`, in seconds, and was none since the last request ended."""
        if self._since is None or self._last is None:
            self._since = now
        else:
            self._since += now - self._last
        self._last = now

    def ended(self, count: int, now: float) -> None:
        """Learn that `count` requests have ended by the time `now`; time without work is no part of their pace."""
        if self._since is None:
            self._since = now
        self._last = now
        passed = max(now - self._since, 1e-3)
        self._ended += count
        self._rate = self._ended / passed
        if passed > _WINDOW:
            self._ended, self._since = self._ended / 2, now - passed / 2

    def wait_for(self, requests: int) -> float:
        """Return in how many seconds so many requests will have ended at today's rate: from 0.1 to 60; 1 if unknown."""
        if not self._rate:
            return 1.0
        return min(60.0, max(0.1, requests / self._rate))

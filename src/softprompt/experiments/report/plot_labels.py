"""Where the names of points stand in a picture, so that none covers another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

CHARACTER = 0.56
"""Width of a character beside the height of its font, a little more than fonts have on average."""


class Box(NamedTuple):
    """A rectangle of a picture, in points."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: Box) -> bool:
        """Say whether the two share an area."""
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )


class Place(NamedTuple):
    """Where a name stands: the left end of its middle line, and whether a line must lead to its point."""

    x: float
    y: float
    led: bool


_SIDES = (1, 0), (-1, 0), (0.25, 1), (0.25, -1), (-0.75, 1), (-0.75, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)
_RINGS = (6.0, 12.0, 20.0, 30.0, 42.0, 56.0)


def beside_points(
    points: Sequence[tuple[float, float]],
    widths: Sequence[float],
    frame: Box,
    size: float,
    others: Sequence[Box] = (),
) -> list[Place | None]:
    """Find a place for each name near its point; the first names choose first.

    Args:
        points: in points of the picture.
        widths: of the points' names.
        frame: what no name may leave.
        size: of the font.
        others: what no name may cover beside points and names.

    Returns:
        One place a name; None where nothing is free.
    """
    taken = [*(Box(x - 3.5, y - 3.5, x + 3.5, y + 3.5) for x, y in points), *others]
    places: list[Place | None] = []
    for own, ((x, y), width) in enumerate(zip(points, widths, strict=True)):
        found = None
        for away, (sideways, up) in product(_RINGS, _SIDES):
            left = x + (away if sideways > 0 else -away - width if sideways < 0 else 0)
            if abs(sideways) < 1:
                left = x - width / 2 + sideways * width / 2
            middle = y + up * (away + size / 2)
            box = Box(left, middle - size * 0.6, left + width, middle + size * 0.6)
            known = (other for place, other in enumerate(taken) if place != own)
            if _inside(box, frame) and not any(box.meets(other) for other in known):
                found = Place(left, middle, away >= 12)
                taken.append(box)
                break
        places.append(found)
    return places


def _inside(box: Box, frame: Box) -> bool:
    return box.left >= frame.left and box.right <= frame.right and box.bottom >= frame.bottom and box.top <= frame.top


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move heights apart until each two are `gap` away, as little as may be, within two bounds where they fit.

    >>> spread([1.0, 1.0, 9.0], 2.0, 0.0, 10.0)
    [0.0, 2.0, 9.0]
    """
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    groups: list[list[float]] = []  # [sum of wished bottoms, count]: neighbours that touch move as one
    for place in order:
        groups.append([heights[place], 1.0])
        while len(groups) > 1 and _bottom(groups[-1], gap) < _bottom(groups[-2], gap) + groups[-2][1] * gap:
            total, count = groups.pop()
            groups[-1] = [groups[-1][0] + total, groups[-1][1] + count]
    flat = [_bottom(group, gap) + gap * step for group in groups for step in range(int(group[1]))]
    flat = _within(flat, gap, low, high)
    found = [0.0] * len(heights)
    for place, height in zip(order, flat, strict=True):
        found[place] = height
    return found


def _bottom(group: Sequence[float], gap: float) -> float:
    return group[0] / group[1] - gap * (group[1] - 1) / 2


def _within(heights: list[float], gap: float, low: float, high: float) -> list[float]:
    for place in range(len(heights)):
        heights[place] = max(heights[place], low + gap * place)
    for place in range(len(heights) - 1, -1, -1):
        heights[place] = min(heights[place], high - gap * (len(heights) - 1 - place))
    return heights

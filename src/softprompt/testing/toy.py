"""A toy task that a tiny random backbone learns in a few dozen steps."""

from __future__ import annotations

import random

GOOD = ("good", "great", "wonderful", "warm")
BAD = ("bad", "awful", "worse", "dull")
OTHER = ("film", "the", "story", "music", "plot")


def toy_rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Return `count` labelled rows, half of each label, all different: one telling word among others.

    >>> [row["label"] for row in toy_rows(2)]
    ['negative', 'positive']
    """
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        words = [rng.choice(GOOD if i % 2 else BAD), *rng.choices(OTHER, k=i % 5)]
        rng.shuffle(words)
        rows.append({"text": f"{' '.join(words)} {i}", "label": "positive" if i % 2 else "negative"})
    return rows

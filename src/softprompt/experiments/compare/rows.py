"""The rows of a comparison: which ones a cell learns from, is chosen by, and is judged on."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from softprompt.errors import ConfigError, DataError
from softprompt.tasks.splits import source_of_chance
from softprompt.tasks.task import Example, Rows, Task, hash_rows

TEST_ROWS = 2_000
"""Test rows that every cell of a task answers, at most."""
CHOICES = ("classification", "choice")
"""The kinds of task that can be compared: one of few labels a row."""


def drawn(rows: Rows, count: int, seed: int) -> tuple[Example, ...]:
    """Draw rows by a seed, each label by its share and, where `count` allows it, at least once.

    What is drawn for a smaller count is a part of what is drawn for a larger one.

    >>> rows = [Example({"text": str(n)}, "ab"[n % 4 == 0]) for n in range(40)]
    >>> few, more = drawn(rows, 4, 0), drawn(rows, 16, 0)
    >>> set(row.key for row in few) <= set(row.key for row in more), sum(row.label == "b" for row in more)
    (True, 4)

    Args:
        rows: labelled rows.
        count: how many at most.
        seed: decides which.

    Returns:
        The rows, in their old order.
    """
    if len(rows) <= count:
        return tuple(rows)
    rng = source_of_chance(seed, "compare")
    by_label: dict[object, list[int]] = defaultdict(list)
    for index in rng.sample(range(len(rows)), len(rows)):
        by_label[rows[index].label].append(index)
    placed = [
        (0.0 if place == 0 else (place + 0.5) / len(indices), rng.random(), index)
        for indices in by_label.values()
        for place, index in enumerate(indices)
    ]
    return tuple(rows[index] for _, _, index in sorted(sorted(placed)[:count], key=lambda each: each[2]))


def check_task(task: Task) -> None:
    """Refuse a task that cannot be compared.

    Raises:
        ConfigError: its rows have not one of few labels each.
        DataError: it has no validation or no test rows.
    """
    if task.kind not in CHOICES:
        raise ConfigError(
            f"`{task.name}` is {task.kind}, and a comparison needs rows with one of few labels each; give a task of "
            "classification"
        )
    for split in ("validation", "test"):
        if not task.splits.get(split):
            raise DataError(f"the task `{task.name}` has no {split} rows; give it a {split} split")


def judged(task: Task, most: int = TEST_ROWS) -> tuple[Example, ...]:
    """Return the test rows that every cell of a task answers, the same for all."""
    return drawn(task.splits["test"], most, 0)


def cut(task: Task, seed: int, rows: int, *, all_rows: int, test_rows: int = TEST_ROWS) -> Task:
    """Return a task with the rows of one cell.

    A cell on some of the rows is chosen by as many validation rows as it has training rows, as its user would have.

    Args:
        task: with all its rows.
        seed: of the draw of training rows.
        rows: how many of them; 0: `all_rows`.
        all_rows: training rows of the comparison at most.
        test_rows: at most.
    """
    train = drawn(task.splits["train"], rows or all_rows, seed)
    validation = task.splits["validation"]
    splits = {
        "train": train,
        "validation": drawn(validation, len(train), seed) if rows else validation,
        "test": judged(task, test_rows),
    }
    return replace(task, splits=splits, data_hash=hash_rows(splits))

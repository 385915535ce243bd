"""What a reader should know about the rows of a task, in sentences; nothing here changes a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from softprompt.tasks.columns import Columns
from softprompt.tasks.labels import is_whole
from softprompt.tasks.task import Rows, Task

UNEVEN = 3
"""How many times the rarest label the most frequent one may be before it is said."""


def guesses(columns: Columns) -> list[str]:
    """Say which columns were taken where the user did not tell."""
    if not columns.guessed:
        return []
    texts = ", ".join(f"`{c}`" for c in columns.texts)
    return [f"columns by their usual names: text from {texts}, label from `{columns.label}`"]


def oddities(splits: Mapping[str, Rows]) -> list[str]:
    """Say what is strange about the rows of a source: empty, repeated and contradictory ones."""
    said = []
    for split, rows in splits.items():
        blank = sum(not all(text.strip() for text in row.fields.values()) for row in rows)
        if blank:
            said.append(f"{_rows(blank)} of {split} with an empty text, kept")
    repeated = len(splits["train"]) - len({(row.key, row.label) for row in splits["train"]})
    if repeated:
        said.append(f"{_rows(repeated)} of train repeat another row exactly, kept")
    found: dict[tuple[str, ...], set[str | None]] = {}
    for row in (row for rows in splits.values() for row in rows):
        found.setdefault(row.key, set()).add(row.label)
    torn = sum(len(different) > 1 for different in found.values())
    if torn:
        said.append(f"{torn} text{'s' * (torn > 1)} with more than one label, so that no model can be right every time")
    return said


def labels(train: Sequence[str], known: Sequence[str]) -> list[str]:
    """Say what is strange about the labels: imbalance, bare numbers, spellings that look alike."""
    said = _imbalance(train)
    if all(map(is_whole, known)):
        example = f'words={{"{known[0]}": "...", "{known[1]}": "..."}}'
        said.append(f"the labels are numbers ({', '.join(known[:5])}): naming them helps the model, with {example}")
    by_lower: dict[str, str] = {}
    for label in known:
        twin = by_lower.setdefault(label.lower(), label)
        if twin != label:
            said.append(f"the labels `{twin}` and `{label}` differ only in letter case and count as two")
    return said


def _imbalance(train: Sequence[str]) -> list[str]:
    ranked = sorted(Counter(train).items(), key=lambda item: (-item[1], item[0]))
    (most, high), (least, low) = ranked[0], ranked[-1]
    if high <= UNEVEN * low:
        return []
    return [
        f"the labels of train are uneven: `{most}` has {_rows(high)} ({high / len(train):.1%}), `{least}` has {low}; "
        f"always answering `{most}` is right that often"
    ]


def overlaps(task: Task) -> list[str]:
    """Count the rows of validation and test that training or selection saw before."""
    before = {"validation": "train", "test": "train or validation"}
    return [
        f"{len(found)} of {_rows(len(task.rows(split)))} of {split} also stand in {before[split]}; "
        "results are given with and without them"
        for split in before
        if (found := task.overlap(split))
    ]


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"

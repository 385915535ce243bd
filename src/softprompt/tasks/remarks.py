"""What a reader should know about the rows of a task, in sentences; nothing here changes a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from softprompt.tasks.columns import Columns
from softprompt.tasks.labels import is_whole
from softprompt.tasks.readout_kinds import Scalar
from softprompt.tasks.task import Label, Rows, Task

UNEVEN = 3
"""How many times the rarest label the most frequent one may be before it is said."""
RARE = 10
"""A label of several on fewer train rows than this is said to be rare."""


def guesses(columns: Columns, role: str = "label") -> list[str]:
    """Say which columns were taken where the user did not tell."""
    if not columns.guessed:
        return []
    texts = ", ".join(f"`{c}`" for c in columns.texts)
    said = {"text": f"text from {texts}", "label": f"{role} from `{columns.label}`"}
    return [f"columns by their usual names: {', '.join(said[name] for name in columns.guessed)}"]


def oddities(splits: Mapping[str, Rows], kind: str = "classification") -> list[str]:
    """Say what is strange about the rows of a source: empty, repeated and contradictory ones."""
    said = []
    for split, rows in splits.items():
        blank = sum(not all(text.strip() for text in row.fields.values()) for row in rows)
        if blank:
            said.append(f"{_rows(blank)} of {split} with an empty text, kept")
    repeated = len(splits["train"]) - len({(row.key, row.label) for row in splits["train"]})
    if repeated:
        said.append(f"{_rows(repeated)} of train repeat another row exactly, kept")
    found: dict[tuple[str, ...], set[Label]] = {}
    for row in (row for rows in splits.values() for row in rows):
        found.setdefault(row.key, set()).add(row.label)
    torn = sum(len(different) > 1 for different in found.values())
    return [*said, f"{torn} text{'s' * (torn > 1)} with {_SEVERAL.get(kind, _TORN)}"] if torn else said


_TORN = "more than one label, so that no model can be right every time"
_SEVERAL = {
    "regression": "more than one number, so that no model can be right every time",
    "generation": "more than one target",
    "extraction": "more than one answer",
    "chat": "more than one answer",
    "tagging": "more than one row of tags, so that no model can be right every time",
}


def answers(task: Task) -> list[str]:
    """Say what is strange about the answers of a task, by its kind."""
    train = task.rows("train")
    if task.kind in ("classification", "choice"):
        named = [label for row in train for label in row.labels]
        return labels(named, task.labels) if task.kind == "classification" else _imbalance(named)
    if task.kind == "multi-label":
        return _several(train, task.labels)
    if isinstance(task.readout, Scalar):
        return _numbers(task, task.readout)
    return _spans(train) if task.kind == "tagging" else []


def _several(train: Rows, known: Sequence[str]) -> list[str]:
    """Rows without a label, and labels of few rows."""
    counts = Counter(label for row in train for label in row.labels)
    none = sum(not row.labels for row in train)
    said = [f"{_rows(none)} of train have no label at all ({none / len(train):.1%})"] if none else []
    rare = min(known, key=lambda label: (counts[label], label))
    if counts[rare] < RARE:
        said.append(f"the label `{rare}` is on {_rows(counts[rare])} of train only; its figures will be uncertain")
    return said


def _numbers(task: Task, readout: Scalar) -> list[str]:
    """The bounds of what can be answered, and how many rows lie outside."""
    said = [f"answers lie between {readout.low:g} and {readout.high:g}"]
    for split in ("validation", "test"):
        numbers = [row.label for row in task.rows(split) if isinstance(row.label, float)]
        outside = sum(not readout.low <= number <= readout.high for number in numbers)
        if outside:
            said.append(f"{_rows(outside)} of {split} lie outside of that and cannot be answered right")
    return said


def _spans(train: Rows) -> list[str]:
    """How many words have no tag, and spans that begin inside."""
    counts = Counter(tag for row in train for tag in row.labels)
    words = sum(counts.values())
    said = [f"{counts['O'] / words:.1%} of the {words:,} words of train are outside of any span"] if counts["O"] else []
    torn = sum(_begins_inside(row.labels) for row in train)
    if torn:
        said.append(f"{_rows(torn)} of train have a span that begins with I-; it is read as a span of its own")
    return said


def _begins_inside(tags: Sequence[str]) -> bool:
    before = ("O", *tags)
    return any(tag.startswith("I-") and last[2:] != tag[2:] for last, tag in zip(before, tags, strict=False))


def labels(train: Sequence[str], known: Sequence[str]) -> list[str]:
    """Say what is strange about the labels: imbalance, several in one, bare numbers, spellings that look alike."""
    said = _imbalance(train)
    joined = [label for label in train if "|" in label]
    if 2 * len(joined) > len(train):
        said.append(
            f"most labels hold `|`, as `{joined[0]}`, and each such text counts as one label; where it stands between "
            'several labels, say kind="multi-label" (--kind multi-label)'
        )
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

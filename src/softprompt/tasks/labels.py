"""Labels: from the values of a column to the answers of a classifier."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from softprompt.errors import DataError

Values = Mapping[str, Sequence[str]]


def label_of(value: object, column: str, where: str) -> str:
    """Return a cell as a label; spaces around it mean nothing.

    >>> label_of(True, "spam", "`a.csv`, line 2")
    'true'

    Args:
        value: what the source holds there.
        column: its column, for the message.
        where: its row, for the message.

    Raises:
        DataError: there is no label, a number with a fraction, a list or an object.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, float) and not math.isnan(value):
        raise DataError(f"{where}: the label column `{column}` holds {value}; labels are words or whole numbers")
    if value is None or isinstance(value, float) or (isinstance(value, str) and not value.strip()):
        raise DataError(f"{where}: the label column `{column}` is empty; label the row or take it out")
    if not isinstance(value, str | int):
        raise DataError(f"{where}: the label column `{column}` holds a {type(value).__name__}, not one label")
    return str(value).strip()


def infer_labels(values: Values, origin: str, column: str, names: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the labels of a task, sorted (numbers as numbers), or in the order of `names` where the source has one.

    >>> infer_labels({"train": ["10", "9", "9"]}, "a.csv", "stars")
    ('9', '10')

    Args:
        values: the labels of every row, by split.
        origin: the source, for messages.
        column: the label column, for messages.
        names: names of numbered classes, in the order of the numbers.

    Raises:
        DataError: fewer than two labels are in train, a label of another split is not, or the column holds
            numbers to predict or free text rather than labels.
    """
    known = set(values["train"])
    if len(known) < 2:
        only = f"the one label `{next(iter(known))}`" if known else "no rows"
        raise DataError(f"`{origin}` has {only} in the column `{column}` of train; a classifier needs at least two")
    _refuse_no_labels(values["train"], known, origin, column)
    for split, found in values.items():
        _refuse_unknown(split, found, known, origin)
    named = [name.strip() for name in names]
    return tuple(name for name in named if name in known) if named else ordered(known)


def ordered(labels: Iterable[str]) -> tuple[str, ...]:
    """Return labels sorted: numbers first, by size, then words, by code point.

    >>> ordered({"b", "10", "9"})
    ('9', '10', 'b')
    """
    return tuple(sorted(labels, key=_order))


def _order(label: str) -> tuple[int, int, str]:
    """Numbers first, by size; then words, by code point."""
    return (0, int(label), label) if is_whole(label) else (1, 0, label)


def is_whole(label: str) -> bool:
    """Tell whether a label is a whole number, so that it sorts as one and says nothing to a model."""
    return label.removeprefix("-").isdecimal() and label.isascii() and len(label) < 19


def _is_number(label: str) -> bool:
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False


def _refuse_no_labels(train: Sequence[str], known: set[str], origin: str, column: str) -> None:
    """Tell labels from measurements and from free text: labels are few and come again."""
    numbers = all(map(_is_number, known))
    if numbers and not all(map(is_whole, known)) and any("." in k and not k.endswith(".0") for k in known):
        sample = next(k for k in sorted(known) if not is_whole(k))
        raise DataError(
            f"`{origin}`: the column `{column}` holds numbers such as {sample}, not labels; name another label column, "
            'or predict them with kind="regression"'
        )
    if len(known) > max(20, len(train) // (10 if numbers else 2)):
        raise DataError(
            f"`{origin}`: the column `{column}` has {len(known)} different values in {len(train)} rows, "
            "too many to be labels; name another label column, or say what it is with kind= (regression, generation)"
        )


def _refuse_unknown(split: str, found: Iterable[str], known: set[str], origin: str) -> None:
    unseen = Counter(label for label in found if label not in known)
    if unseen:
        label, rows = unseen.most_common(1)[0]
        more = f" (and {len(unseen) - 1} more such labels)" if len(unseen) > 1 else ""
        raise DataError(
            f"`{origin}`: the label `{label}` is in {rows} row(s) of {split} and never in train{more}; "
            "add rows of it to train, or take it out"
        )

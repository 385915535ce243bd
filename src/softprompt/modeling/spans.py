"""Tags as spans, by the rule of the CoNLL shared tasks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_SPAN_TAG = re.compile(r"O|[BIESLU]-.+")


class Span(NamedTuple):
    """Words `begin` to `end` (exclusive) of one type."""

    type: str
    begin: int
    end: int


def write_spans(tags: Iterable[str]) -> bool:
    """Tell whether all of these tags are written as spans are: `O`, `B-X`, `I-X` and the like.

    >>> write_spans(["B-PER", "O"]), write_spans(["NOUN", "VERB"])
    (True, False)
    """
    return all(_SPAN_TAG.fullmatch(tag) for tag in tags)


def spans_of(tags: Sequence[str]) -> tuple[Span, ...]:
    """Return the spans of a row of tags, by the rule of the CoNLL-2000 and CoNLL-2003 evaluation.

    A span begins at B-X, and at I-X where the word before is outside or of another type; it ends before the next
    beginning and before O. E- and L- end a span, S- and U- are spans of one word.

    >>> spans_of(["I-PER", "I-PER", "B-PER", "O", "I-LOC"])
    (Span(type='PER', begin=0, end=2), Span(type='PER', begin=2, end=3), Span(type='LOC', begin=4, end=5))
    """
    found: list[Span] = []
    begin, before = 0, "O"
    for place, tag in enumerate((*tags, "O")):
        if before != "O" and (tag == "O" or _begins(before, tag)):
            found.append(Span(before[2:], begin, place))
        if tag != "O" and _begins(before, tag):
            begin = place
        before = tag
    return tuple(found)


def _begins(before: str, tag: str) -> bool:
    return tag[0] in "BSU" or before == "O" or before[0] in "ESLU" or before[2:] != tag[2:]

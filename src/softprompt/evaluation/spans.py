"""Tags as spans: entity F1 by the rule of the CoNLL shared tasks, and the share of words tagged right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from softprompt.errors import DataError
from softprompt.evaluation.figures import ClassRow
from softprompt.evaluation.measures import Statistic
from softprompt.modeling.spans import Span, spans_of, write_spans
from softprompt.shapes import Float
from softprompt.tasks.task import Example, Label

__all__ = ["Span", "span_table", "spans_of", "statistics_of"]


def statistics_of(examples: Sequence[Example], answers: Sequence[Label]) -> list[Statistic]:
    """Return entity F1, precision and recall (for tags that write spans), and the share of words tagged right.

    A span counts as found where type, begin and end are right; F1 = 2 TP / (found + right ones), over all rows and
    types together, 0 where there is none.

    Args:
        examples: B rows with a tag for each word.
        answers: B rows of tags.

    Raises:
        DataError: a row has another number of tags than of words.
    """
    rows = _paired(examples, answers)
    words = np.asarray([[len(gold), sum(map(str.__eq__, gold, found))] for gold, found in rows], dtype=np.float64)
    right = Statistic("accuracy of words", lambda weights: _ratio(weights @ words[:, 1], weights @ words[:, 0]))
    if not write_spans(tag for pair in rows for tags in pair for tag in tags):
        return [right]
    counts = np.asarray([_counts(gold, found) for gold, found in rows], dtype=np.float64)  # [B, 3]: hits, found, right
    hits, ours, theirs = counts.T
    return [
        Statistic("entity F1", lambda weights: _ratio(2 * (weights @ hits), weights @ (ours + theirs))),
        Statistic("entity precision", lambda weights: _ratio(weights @ hits, weights @ ours)),
        Statistic("entity recall", lambda weights: _ratio(weights @ hits, weights @ theirs)),
        right,
    ]


def span_table(examples: Sequence[Example], answers: Sequence[Label]) -> tuple[ClassRow, ...]:
    """Return precision, recall, F1 and support of each type of span; arguments and errors as for `statistics_of`."""
    ours, theirs, hits = Counter[str](), Counter[str](), Counter[str]()
    for gold, found in _paired(examples, answers):
        right, answered = set(spans_of(gold)), set(spans_of(found))
        theirs.update(span.type for span in right)
        ours.update(span.type for span in answered)
        hits.update(span.type for span in right & answered)
    return tuple(_row(kind, hits[kind], ours[kind], theirs[kind]) for kind in sorted({*ours, *theirs}))


def _row(kind: str, hits: int, ours: int, theirs: int) -> ClassRow:
    precision, recall = (hits / total if total else None for total in (ours, theirs))
    return ClassRow(label=kind, precision=precision, recall=recall, f1=2 * hits / (ours + theirs), support=theirs)


def _paired(examples: Sequence[Example], answers: Sequence[Label]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    pairs = []
    for row, (example, answer) in enumerate(zip(examples, answers, strict=True), 1):
        found = answer if isinstance(answer, tuple) else ()
        if len(found) != len(example.labels):
            raise DataError(
                f"row {row} has {len(example.labels)} words and the answer {len(found)} tags; tag each word"
            )
        pairs.append((example.labels, found))
    return pairs


def _counts(gold: Sequence[str], found: Sequence[str]) -> tuple[int, int, int]:
    right, ours = set(spans_of(gold)), set(spans_of(found))
    return len(right & ours), len(ours), len(right)


def _ratio(part: Float[np.ndarray, " R"], whole: Float[np.ndarray, " R"]) -> Float[np.ndarray, " R"]:
    return np.asarray(np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0))

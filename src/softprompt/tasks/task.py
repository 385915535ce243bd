"""A task: examples in named splits, how a row is written, and what is read out of it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from softprompt.registry import unknown_name
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.template import Template


@dataclass(frozen=True)
class Example:
    """One row: the texts that the template shows, and the answer where it is known.

    >>> Example({"text": "a gripping film"}, "positive").key
    ('a gripping film',)
    """

    fields: Mapping[str, str]
    label: str | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """The texts alone, in the order of the columns' names: equal for rows that the model cannot tell apart."""
        return tuple(text for _, text in sorted(self.fields.items()))


Rows = Sequence[Example]


@dataclass(frozen=True)
class Task:
    """Everything that a prompt is trained and judged on.

    Args:
        name: a short name.
        kind: `classification`.
        splits: the rows of `train`, `validation` and `test`.
        given: the splits whose rows are exactly those of the source; the others were drawn from its train rows.
        template: how a row is written.
        readout: the labels and the words that stand for them.
        notes: what the reader of a report should know about the data, one sentence each.
        data_hash: sha256 (hex) over the rows of all splits.
        division: how the splits that were not given were drawn, one sentence each.
        shots: how many texts of each label train was limited to, if it was.
    """

    name: str
    kind: str
    splits: Mapping[str, tuple[Example, ...]]
    given: frozenset[str]
    template: Template
    readout: LabelWords
    notes: tuple[str, ...]
    data_hash: str
    division: tuple[str, ...] = ()
    shots: int | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The answers, in the order that probabilities have."""
        return self.readout.labels

    def rows(self, split: str) -> tuple[Example, ...]:
        """Return the rows of one split.

        Raises:
            UnknownNameError: the task has no such split; the nearest is offered.
        """
        if split not in self.splits:
            raise unknown_name("split", split, self.splits)
        return self.splits[split]

    def overlap(self, split: str) -> tuple[int, ...]:
        """Return which rows of `split` (indices from 0) stand, text for text, in rows that training saw before it.

        For `test` those are the rows of train and validation, for `validation` those of train, for `train` none.

        Raises:
            UnknownNameError: the task has no such split.
        """
        self.rows(split)
        return self._overlaps[split]

    @cached_property
    def _overlaps(self) -> Mapping[str, tuple[int, ...]]:
        seen: set[tuple[str, ...]] = set()
        found = {}
        for split in [s for s in ("train", "validation", "test") if s in self.splits]:
            keys = [example.key for example in self.splits[split]]
            found[split] = () if split == "train" else tuple(i for i, key in enumerate(keys) if key in seen)
            seen.update(keys)
        return MappingProxyType(found)

    def label_counts(self, split: str) -> dict[str, int]:
        """Return how many rows of `split` have each label, labels in the task's order."""
        counts = Counter(example.label for example in self.rows(split))
        return {label: counts[label] for label in self.labels}

    def summary(self) -> dict[str, Any]:
        """Return what the task is, without its rows, as plain JSON."""
        return {
            "name": self.name,
            "kind": self.kind,
            "labels": [*self.labels],
            "words": [*self.readout.words],
            "template": self.template.to_json(),
            "splits": {split: self._counted(split) for split in self.splits},
            "notes": [*self.notes, *self.division],
            "data_hash": self.data_hash,
        }

    def _counted(self, split: str) -> dict[str, Any]:
        counts = self.label_counts(split)
        given, overlap = split in self.given, len(self.overlap(split))
        return {"rows": len(self.rows(split)), "given": given, "overlap": overlap, "labels": counts}

    def describe(self) -> str:
        """Return what the task is, without its rows, in a few lines."""
        lines = [f"{self.name}: {self.kind}, {len(self.labels)} labels, data {self.data_hash[:12]}"]
        for split, rows in self.splits.items():
            origin = "given" if split in self.given else "ours"
            counts = [f"{label} {count}" for label, count in self.label_counts(split).items()]
            more = f", and {len(counts) - 6} more" if len(counts) > 6 else ""
            lines.append(f"  {split:<10} {len(rows):>7,} rows ({origin}): {', '.join(counts[:6])}{more}")
        lines.append(f"  template   {json.dumps(self.template.pattern, ensure_ascii=False)}")
        lines.append(f"  words      {', '.join(json.dumps(w, ensure_ascii=False) for w in self.readout.words[:12])}")
        return "\n".join([*lines, *(f"  note: {note}" for note in (*self.notes, *self.division))])


def hash_rows(splits: Mapping[str, Rows]) -> str:
    """Return the sha256 (hex) over the rows of all splits, their fields and labels written as canonical JSON."""
    digest = hashlib.sha256()
    for split in sorted(splits):
        for example in splits[split]:
            row = [split, dict(example.fields), example.label]
            text = json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
            digest.update(text.encode("utf-8") + b"\n")
    return digest.hexdigest()

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
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import Readout
from softprompt.tasks.readout_kinds import Scalar
from softprompt.tasks.template import Template

Label = str | float | tuple[str, ...] | None


@dataclass(frozen=True)
class Example:
    """One row: the texts that the template shows, and the answer where it is known.

    Args:
        fields: the text of each column. Tagged words are joined by single spaces (`tags.words_of` divides them), a
            conversation is JSON (`messages.messages_of` reads it).
        label: the right answer. Text for classification, choice (a letter), generation, extraction and chat; all
            labels that hold, sorted, for multi-label; a tag for each word for tagging; a number for regression.
        references: all accepted answers of generated text; empty where `label` is the only one.

    >>> Example({"text": "a gripping film"}, "positive").key
    ('a gripping film',)
    """

    fields: Mapping[str, str]
    label: Label = None
    references: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, ...]:
        """The texts alone, in the order of the columns' names: equal for rows that the model cannot tell apart."""
        return tuple(text for _, text in sorted(self.fields.items()))

    @property
    def labels(self) -> tuple[str, ...]:
        """The answer as labels: one, several or a tag for each word; none where it is a number or not known."""
        if isinstance(self.label, tuple):
            return self.label
        return (self.label,) if isinstance(self.label, str) else ()

    @property
    def accepted(self) -> tuple[str, ...]:
        """Every text that answers the row right: the references, else the label alone."""
        return self.references or self.labels


Rows = Sequence[Example]


@dataclass(frozen=True)
class Task:
    """Everything that a prompt is trained and judged on.

    Args:
        name: a short name.
        kind: `classification`, `multi-label`, `choice`, `regression`, `generation`, `extraction`, `chat`, `tagging`.
        splits: the rows of `train`, `validation` and `test`.
        given: the splits whose rows are exactly those of the source; the others were drawn from its train rows.
        template: how a row is written.
        readout: what reads answers out of the model: labels with the words that stand for them, a number, text.
        notes: what the reader of a report should know about the data, one sentence each.
        data_hash: sha256 (hex) over the rows of all splits.
        division: how the splits that were not given were drawn, one sentence each.
        shots: how many texts of each label train was limited to, if it was.
        seed: what the draws were made by; `None` where nothing was drawn.
        default_template: nobody gave the template, so that it may be written anew for a kind of backbone (`fitted_to`).
        column: the source's column with the answers, where that is known.
    """

    name: str
    kind: str
    splits: Mapping[str, tuple[Example, ...]]
    given: frozenset[str]
    template: Template
    readout: Readout
    notes: tuple[str, ...]
    data_hash: str
    division: tuple[str, ...] = ()
    shots: int | None = None
    seed: int | None = None
    default_template: bool = False
    column: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The answers to choose from, in the order that probabilities have; none where answers are numbers or text."""
        return self.readout.labels

    @property
    def by_label(self) -> bool:
        """Whether each row has one of few labels, so that folds and draws can be stratified by it."""
        return self.kind in ("classification", "choice")

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
        """Return how many rows (in tagging: words) of `split` have each label, labels in the task's order."""
        counts = Counter(label for example in self.rows(split) for label in example.labels)
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
        lines = [f"{self.name}: {self.kind}, {self._answers()}, data {self.data_hash[:12]}"]
        for split, rows in self.splits.items():
            origin = "given" if split in self.given else "ours"
            counts = [f"{label} {count}" for label, count in self.label_counts(split).items()]
            more = f", and {len(counts) - 6} more" if len(counts) > 6 else ""
            shown = f": {', '.join(counts[:6])}{more}" if counts else ""
            lines.append(f"  {split:<10} {len(rows):>7,} rows ({origin}){shown}")
        lines.append(f"  template   {json.dumps(self.template.pattern, ensure_ascii=False)}")
        if self.readout.words:
            shown = ", ".join(json.dumps(w, ensure_ascii=False) for w in self.readout.words[:12])
            lines.append(f"  words      {shown}")
        return "\n".join([*lines, *(f"  note: {note}" for note in (*self.notes, *self.division))])

    def _answers(self) -> str:
        """What the answers are, in a few words."""
        readout = self.readout
        if isinstance(readout, Scalar):
            return f"from {readout.low:g} to {readout.high:g}"
        if isinstance(readout, Text):
            return f"up to {readout.max_new_tokens} tokens"
        return f"{len(self.labels)} {'tags' if self.kind == 'tagging' else 'labels'}"


def hash_rows(splits: Mapping[str, Rows]) -> str:
    """Return the sha256 (hex) over the rows of all splits, their fields and labels written as canonical JSON."""
    digest = hashlib.sha256()
    for split in sorted(splits):
        for example in splits[split]:
            row = [split, dict(example.fields), example.label, *([example.references] if example.references else [])]
            text = json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
            digest.update(text.encode("utf-8") + b"\n")
    return digest.hexdigest()

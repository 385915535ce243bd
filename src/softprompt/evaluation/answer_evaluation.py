"""`AnswerEvaluation`: one predictor's answers to rows that are not asked for one label, and the figures of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from softprompt.errors import DataError
from softprompt.evaluation import label_sets, measures, spans
from softprompt.evaluation.evaluation import Evaluation, refuse_empty
from softprompt.evaluation.figures import ClassRow, Difference, Measures
from softprompt.modeling.spans import write_spans
from softprompt.shapes import Float
from softprompt.tasks.task import Example, Label


@dataclass(frozen=True, eq=False)
class AnswerEvaluation:
    """One predictor's answers to labelled rows: several labels, numbers, texts or tags.

    Attributes:
        kind: of the task.
        gold: the right answer of each of the B rows.
        answers: the predictor's.
        references: every accepted text of each row; empty where the right answer is the only one.
        digest: of the prompt, where a prompt gave the answers.
        overlap: rows, in [0, B), that also stand in train.
        truncated: how many rows were shortened to fit the backbone.
        seconds: how long answering took.
        scores: what was read behind each row, before calibration, where something was; not part of the JSON.

    Raises:
        DataError: there is no row, or another number of answers than of rows.
    """

    kind: str
    gold: tuple[Label, ...]
    answers: tuple[Label, ...]
    references: tuple[tuple[str, ...], ...] = ()
    digest: str | None = None
    overlap: tuple[int, ...] = ()
    truncated: int = 0
    seconds: float = 0.0
    scores: Sequence[Float[np.ndarray, "*words C"]] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        refuse_empty(self.gold)
        if len(self.answers) != len(self.gold):
            raise DataError(f"{len(self.answers)} answers to {len(self.gold)} rows; give each row its answer")

    @classmethod
    def of(cls, kind: str, examples: Sequence[Example], answers: Sequence[Label], **more: Any) -> AnswerEvaluation:
        """Put answers beside the rows they answer; `more` are further attributes.

        Raises:
            DataError: there is no row, a row has no right answer, or another number of answers.
        """
        refuse_empty(examples)
        for row, example in enumerate(examples, start=1):
            if example.label is None:
                raise DataError(
                    f"row {row} of {len(examples)} has no answer; evaluation needs the right answer of each row"
                )
        gold = tuple(example.label for example in examples)
        return cls(kind, gold, tuple(answers), tuple(example.references for example in examples), **more)

    @property
    def rows(self) -> tuple[Example, ...]:
        """The rows as they are measured: right answers without their texts."""
        references = self.references or ((),) * len(self.gold)
        return tuple(Example({}, label, accepted) for label, accepted in zip(self.gold, references, strict=True))

    def figures(self, *, seed: int = 0) -> Measures:
        """Return every figure that can be had here, the headline first, with 95 % bootstrap intervals."""
        kind, note = measures.measurable(self.kind)
        found = measures.measure_answers(kind, self.rows, self.answers, seed=seed)
        return found.model_copy(update={"kind": self.kind, "note": note})

    def against(self, other: AnswerEvaluation, *, seed: int = 0) -> Difference:
        """Return the headline figure minus another predictor's on the same rows, positive where this is the better."""
        kind, _ = measures.measurable(self.kind)
        return measures.compare_answers(kind, self.rows, self.answers, other.answers, seed=seed)

    def class_table(self) -> tuple[ClassRow, ...]:
        """Return precision, recall, F1 and support of each label or type of span; nothing for other answers."""
        if self.kind == "multi-label":
            return label_sets.label_table(self.rows, self.answers)
        if self.kind == "tagging" and write_spans(tag for tags in self._tags() for tag in tags):
            return spans.span_table(self.rows, self.answers)
        return ()

    def without_overlap(self) -> AnswerEvaluation | None:
        """Return the evaluation of the rows that do not stand in train, None when there is none."""
        left_out = set(self.overlap)
        kept = [row for row in range(len(self.gold)) if row not in left_out]
        return self._of_rows(kept) if kept else None

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation, each row's answer included, as plain JSON."""
        return {
            "kind": self.kind,
            "gold": [_plain(label) for label in self.gold],
            "answers": [_plain(label) for label in self.answers],
            "references": [[*accepted] for accepted in self.references],
            "digest": self.digest,
            "overlap": [*self.overlap],
            "truncated": self.truncated,
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> AnswerEvaluation:
        """Rebuild an evaluation from `to_json`.

        Raises:
            DataError: `data` is not what `to_json` writes.
        """
        try:
            return cls(
                kind=data["kind"],
                gold=tuple(_label(value) for value in data["gold"]),
                answers=tuple(_label(value) for value in data["answers"]),
                references=tuple(tuple(accepted) for accepted in data["references"]),
                digest=data["digest"],
                overlap=tuple(data["overlap"]),
                truncated=data["truncated"],
                seconds=data["seconds"],
            )
        except (KeyError, TypeError) as error:
            raise DataError(
                f"cannot read this JSON as an AnswerEvaluation: {error}; give what `to_json` wrote"
            ) from error

    @classmethod
    def pooled(cls, folds: Sequence[AnswerEvaluation]) -> AnswerEvaluation:
        """Join the out-of-fold evaluations of a cross-fit into one; the pool has no digest, for prompts differ."""
        starts = np.cumsum([0, *(len(fold.gold) for fold in folds)])
        return cls(
            kind=folds[0].kind,
            gold=tuple(label for fold in folds for label in fold.gold),
            answers=tuple(label for fold in folds for label in fold.answers),
            references=tuple(accepted for fold in folds for accepted in fold.references),
            overlap=tuple(int(start) + row for start, fold in zip(starts, folds, strict=False) for row in fold.overlap),
            truncated=sum(fold.truncated for fold in folds),
            seconds=sum(fold.seconds for fold in folds),
        )

    def _of_rows(self, kept: Sequence[int]) -> AnswerEvaluation:
        return replace(
            self,
            gold=tuple(self.gold[row] for row in kept),
            answers=tuple(self.answers[row] for row in kept),
            references=tuple(self.references[row] for row in kept) if self.references else (),
            scores=[self.scores[row] for row in kept] if len(self.scores) else (),
            overlap=(),
        )

    def _tags(self) -> list[tuple[str, ...]]:
        return [tags for side in (self.gold, self.answers) for tags in side if isinstance(tags, tuple)]


Judged = Evaluation | AnswerEvaluation
"""What evaluating gives, by the kind of the task."""


def pooled(folds: Sequence[Judged]) -> Judged:
    """Join the out-of-fold evaluations of a cross-fit, of one kind, into one.

    Raises:
        DataError: the folds are of several kinds, or have other labels.
    """
    labels = [fold for fold in folds if isinstance(fold, Evaluation)]
    if labels and len(labels) == len(folds):
        return Evaluation.pooled(labels)
    others = [fold for fold in folds if isinstance(fold, AnswerEvaluation)]
    if not others or len(others) != len(folds) or len({fold.kind for fold in others}) != 1:
        raise DataError(f"asked to pool {len(folds)} evaluations of several kinds of task; give folds of one task")
    return AnswerEvaluation.pooled(others)


def _plain(label: Label) -> Any:
    return [*label] if isinstance(label, tuple) else label


def _label(value: Any) -> Label:
    return tuple(value) if isinstance(value, list) else value

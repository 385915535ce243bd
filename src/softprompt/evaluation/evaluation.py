"""`Evaluation`: one predictor's scores on labelled rows, kept whole, and every figure that follows from them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from softprompt.errors import BackboneError, DataError
from softprompt.evaluation import metrics, statistics
from softprompt.evaluation.figures import ClassRow, Figures
from softprompt.registry import nearest
from softprompt.shapes import Bool, Float, Int
from softprompt.tasks.task import Example

Score = Callable[[Sequence[Example]], np.ndarray]
"""What scores rows: B examples to log-probabilities [B, C], not calibrated."""

_DECIMALS = 6  # log-probabilities are kept to these, so that the JSON is short and reads back to the same numbers


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One predictor's scores on labelled rows.

    Attributes:
        labels: the C answers, in the order of the columns.
        gold: right label of each of the B rows, in [0, C).
        log_probabilities: of each row's labels, not calibrated, to six decimals.
        temperature: what they are divided by; one for all rows, or one for each (cross-fitted).
        abstain: answers below this probability are abstentions; None: every row is answered.
        digest: of the prompt, where a prompt made the scores.
        overlap: rows, in [0, B), that also stand in train.
        truncated: how many rows were shortened to fit the backbone.
        seconds: how long scoring took.

    Raises:
        DataError: there is no row, or scores, rows and labels do not agree in number.
        BackboneError: a score is not finite.
    """

    labels: tuple[str, ...]
    gold: Int[np.ndarray, " B"]
    log_probabilities: Float[np.ndarray, "B C"]
    temperature: float | Float[np.ndarray, " B"] = 1.0
    abstain: float | None = None
    digest: str | None = None
    overlap: tuple[int, ...] = ()
    truncated: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        refuse_empty(self.gold)
        expected, found = (len(self.gold), len(self.labels)), np.shape(self.log_probabilities)
        if found != expected:
            raise DataError(f"scores of shape {found} for {expected[0]} rows and {expected[1]} labels; give {expected}")
        broken = np.flatnonzero(~np.isfinite(self.log_probabilities).all(axis=1))
        if len(broken):
            shown = f"{len(broken)} of {len(self.gold)} rows scored NaN or infinity, the first is row {broken[0] + 1}"
            raise BackboneError(f"{shown}; check the prompt for values that are not finite, or load with dtype float32")
        rounded = np.round(np.asarray(self.log_probabilities, dtype=np.float64), _DECIMALS)
        object.__setattr__(self, "log_probabilities", rounded)

    @cached_property
    def calibrated(self) -> Float[np.ndarray, "B C"]:
        """Log-probabilities at the temperature, normalised over the labels."""
        return metrics.calibrated(self.log_probabilities, self.temperature)

    @cached_property
    def predicted(self) -> Int[np.ndarray, " B"]:
        """The most probable label of each row, in [0, C)."""
        return np.asarray(self.log_probabilities.argmax(axis=1))

    @property
    def right(self) -> Bool[np.ndarray, " B"]:
        """Whether each row's most probable label is the right one."""
        return np.asarray(self.predicted == self.gold)

    @property
    def accuracy(self) -> float:
        """Share of the rows that are right, in [0, 1]."""
        return metrics.accuracy(self.gold, self.predicted)

    def figures(self, *, seed: int = 0) -> Figures:
        """Return every headline number, with 95 % bootstrap intervals drawn from `seed`."""
        confidence = np.exp(self.calibrated.max(axis=1))
        raw = np.exp(metrics.calibrated(self.log_probabilities).max(axis=1))
        held = None if self.abstain is None else metrics.answered(confidence, self.right, self.abstain)
        return Figures(
            rows=len(self.gold),
            accuracy=self.accuracy,
            accuracy_interval=statistics.accuracy_interval(self.gold, self.predicted, seed=seed),
            macro_f1=metrics.macro_f1(self.gold, self.predicted),
            macro_f1_interval=statistics.macro_f1_interval(self.gold, self.predicted, seed=seed),
            mcc=metrics.mcc(self.gold, self.predicted),
            log_loss=metrics.log_loss(self.calibrated, self.gold),
            ece=metrics.expected_calibration_error(confidence, self.right),
            ece_raw=metrics.expected_calibration_error(raw, self.right),
            answered=held,
        )

    def class_table(self) -> tuple[ClassRow, ...]:
        """Return precision, recall, F1 and support of each label."""
        return metrics.class_table(self.gold, self.predicted, self.labels)

    def confusion_matrix(self) -> Int[np.ndarray, "C C"]:
        """Return the counts by right label (rows) and predicted label (columns)."""
        return metrics.confusion_matrix(self.gold, self.predicted, len(self.labels))

    def without_overlap(self) -> Evaluation | None:
        """Return the evaluation of the rows that do not stand in train, None when there is none."""
        kept = np.setdiff1d(np.arange(len(self.gold)), self.overlap)
        if not len(kept):
            return None
        temperature = self.temperature[kept] if isinstance(self.temperature, np.ndarray) else self.temperature
        scores = self.log_probabilities[kept]
        return replace(self, gold=self.gold[kept], log_probabilities=scores, temperature=temperature, overlap=())

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation, each row's scores included, as plain JSON."""
        temperature = self.temperature.tolist() if isinstance(self.temperature, np.ndarray) else self.temperature
        return {
            "labels": [*self.labels],
            "gold": self.gold.tolist(),
            "log_probabilities": self.log_probabilities.tolist(),
            "temperature": temperature,
            "abstain": self.abstain,
            "digest": self.digest,
            "overlap": [*self.overlap],
            "truncated": self.truncated,
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        """Rebuild an evaluation from `to_json`.

        Raises:
            DataError: `data` is not what `to_json` writes.
        """
        try:
            temperature = data["temperature"]
            return cls(
                labels=tuple(data["labels"]),
                gold=np.asarray(data["gold"], dtype=np.int64),
                log_probabilities=np.asarray(data["log_probabilities"], dtype=np.float64),
                temperature=np.asarray(temperature) if isinstance(temperature, list) else float(temperature),
                abstain=data["abstain"],
                digest=data["digest"],
                overlap=tuple(data["overlap"]),
                truncated=data["truncated"],
                seconds=data["seconds"],
            )
        except (KeyError, TypeError) as error:
            raise DataError(f"cannot read this JSON as an Evaluation: {error}; give what `to_json` wrote") from error

    @classmethod
    def pooled(cls, folds: Sequence[Evaluation]) -> Evaluation:
        """Join the out-of-fold evaluations of a cross-fit, each at its own temperature, into one.

        The prompts differ from fold to fold, so the pool has no digest; thresholds differ too, so it has none.

        Raises:
            DataError: the folds do not have the same labels, or there is no fold.
        """
        found = {fold.labels for fold in folds}
        if len(found) != 1:
            raise DataError(
                f"asked to pool {len(folds)} evaluations with {len(found)} sets of labels; give folds of one task"
            )
        starts = np.cumsum([0, *(len(fold.gold) for fold in folds)])
        return cls(
            labels=folds[0].labels,
            gold=np.concatenate([fold.gold for fold in folds]),
            log_probabilities=np.concatenate([fold.log_probabilities for fold in folds]),
            temperature=np.concatenate([np.broadcast_to(fold.temperature, len(fold.gold)) for fold in folds]),
            overlap=tuple(int(s) + i for s, fold in zip(starts, folds, strict=False) for i in fold.overlap),
            truncated=sum(fold.truncated for fold in folds),
            seconds=sum(fold.seconds for fold in folds),
        )


def measure(
    score: Score, examples: Sequence[Example], labels: Sequence[str], *, overlap: Iterable[int] = ()
) -> Evaluation:
    """Evaluate anything that scores rows; arguments and errors as for `evaluate`.

    Args:
        score: from B examples to log-probabilities [B, C].
        examples: B labelled rows.
        labels: the C answers, in the order of the columns of `score`.
        overlap: which of the rows also stand in train.
    """
    refuse_empty(examples)
    gold = gold_indices(examples, labels)
    started = time.perf_counter()
    scores = score(examples)
    seconds = time.perf_counter() - started
    return Evaluation(tuple(labels), gold, scores, overlap=tuple(sorted(overlap)), seconds=seconds)


def refuse_empty(rows: Sized) -> None:
    """Raise where there is nothing to evaluate on.

    Raises:
        DataError: there is no row.
    """
    if not len(rows):
        raise DataError("asked to evaluate on 0 rows; give at least one labelled row")


def gold_indices(examples: Sequence[Example], labels: Sequence[str]) -> Int[np.ndarray, " B"]:
    """Return the position in `labels` of each row's label.

    Raises:
        DataError: a row has no label, or one that is not among `labels`.
    """
    position = {label: i for i, label in enumerate(labels)}
    for row, example in enumerate(examples, start=1):
        if example.label is None:
            raise DataError(f"row {row} of {len(examples)} has no label; evaluation needs the right answer of each row")
        if example.label not in position:
            raise DataError(f"row {row} has the label `{example.label}`, {_not_among(str(example.label), labels)}")
    return np.asarray([position[str(example.label)] for example in examples], dtype=np.int64)


def _not_among(label: str, labels: Sequence[str]) -> str:
    shown = ", ".join(f"`{known}`" for known in labels[:8]) + (
        f" and {len(labels) - 8} more" if len(labels) > 8 else ""
    )
    near = nearest(label, labels)
    return f"not one of the {len(labels)} trained on ({shown}); " + (
        f"did you mean `{near[0]}`?" if near else "take the row out, or train with rows that have it"
    )

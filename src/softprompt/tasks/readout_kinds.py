"""Readouts that choose between two words: independent yes or no for each label, a number between two bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from softprompt.errors import DataError
from softprompt.tasks.readout import chosen_words, refuse_equal_words, refuse_uneven


@dataclass(frozen=True)
class YesNo:
    """Several answers a row, each for itself: behind the row come a label's words, and then yes or no.

    p(label) = p(yes) / (p(yes) + p(no)), as a choice between two words; no label's answer depends on another's.

    Args:
        labels: the answers, C of them, distinct, at least one.
        words: for each label the text put behind a row, for instance `" toxic?"`; distinct.
        yes: the text that then says that the label holds.
        no: the text that says that it does not.

    Raises:
        DataError: no label, a label without words, two with the same words, or no difference between yes and no.
        ConfigError: another number of words than of labels, or a label twice.

    >>> YesNo.from_labels(["toxic", "rude"]).words
    (' toxic?', ' rude?')
    """

    labels: tuple[str, ...]
    words: tuple[str, ...]
    yes: str = " yes"
    no: str = " no"
    kind: ClassVar[str] = "yes-no"

    def __post_init__(self) -> None:
        refuse_uneven("label", self.labels, self.words, least=1)
        refuse_equal_words(self.labels, self.words)
        refuse_equal_words(("yes", "no"), (self.yes, self.no))

    @property
    def outputs(self) -> int:
        """C: a learned head has a row for each label, and reads all of them in one pass."""
        return len(self.labels)

    @classmethod
    def from_labels(
        cls, labels: Sequence[str], words: Mapping[str, str] | None = None, *, leading_space: bool = True
    ) -> YesNo:
        """Ask for each label by its name, as ` toxic?`.

        Raises:
            UnknownNameError: `words` names a label that is not there.
            DataError: two labels end up with the same words.
        """
        lead = " " if leading_space else ""
        asked = (f"{lead}{word}{'' if word.endswith(('?', ':')) else '?'}" for word in chosen_words(labels, words))
        return cls(tuple(labels), tuple(asked))

    def to_json(self) -> dict[str, Any]:
        """Return the readout as plain JSON."""
        shown = {"kind": self.kind, "labels": [*self.labels], "words": [*self.words]}
        return {**shown, "yes": self.yes, "no": self.no}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> YesNo:
        """Rebuild a readout from `to_json`."""
        return cls(tuple(data["labels"]), tuple(data["words"]), data["yes"], data["no"])


@dataclass(frozen=True)
class Scalar:
    """A number between two bounds, from the choice between two words.

    y = low + (high - low) * p(second word), p being a softmax over the two words alone.

    Args:
        low: the smallest number that can be answered.
        high: the largest, above `low`.
        words: what stands for `low` and for `high`.

    Raises:
        DataError: the bounds are no numbers, or not in order; the words are empty or the same.

    >>> Scalar(0.0, 5.0).share(4.0)
    0.8
    """

    low: float
    high: float
    words: tuple[str, str] = (" low", " high")
    kind: ClassVar[str] = "scalar"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise DataError(f"the bounds are {self.low} and {self.high}; give two numbers, the smaller one first")
        refuse_uneven("bound", ("low", "high"), self.words, least=2)
        refuse_equal_words(("low", "high"), self.words)

    @property
    def labels(self) -> tuple[str, ...]:
        """None: the answer is a number."""
        return ()

    @property
    def outputs(self) -> int:
        """2: a learned head has a row for each of the two words."""
        return 2

    @classmethod
    def from_values(
        cls, train: Sequence[float], words: Mapping[str, str] | None = None, *, leading_space: bool = True
    ) -> Scalar:
        """Take the smallest and the largest value of train as the bounds.

        >>> Scalar.from_values([0.5, 2.0, 4.5]).high
        4.5

        Args:
            train: the values to learn from.
            words: words for `low` and `high`, where those are not to be used.
            leading_space: put a space in front of the words.

        Raises:
            DataError: fewer than two different values.
            UnknownNameError: `words` has a key other than `low` and `high`.
        """
        if len(set(train)) < 2:
            raise DataError(
                f"train has {len(set(train))} different value(s) to predict; a regression needs two at least"
            )
        lead = " " if leading_space else ""
        low, high = chosen_words(["low", "high"], words)
        return cls(min(train), max(train), (lead + low, lead + high))

    def share(self, value: float) -> float:
        """Return where `value` lies between the bounds, in [0, 1]: the p(second word) that answers it.

        Raises:
            DataError: it lies outside.
        """
        if not self.low <= value <= self.high:
            raise DataError(
                f"the value {value} is outside of {self.low} to {self.high}, which is all that can be answered; "
                "give wider bounds, or take the row out of train"
            )
        return (value - self.low) / (self.high - self.low)

    def to_json(self) -> dict[str, Any]:
        """Return the readout as plain JSON."""
        return {"kind": self.kind, "low": float(self.low), "high": float(self.high), "words": [*self.words]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Scalar:
        """Rebuild a readout from `to_json`."""
        first, second = data["words"]
        return cls(data["low"], data["high"], (first, second))

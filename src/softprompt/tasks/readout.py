"""What turns hidden states into answers: the words that stand for the labels (a verbalizer)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from softprompt.errors import ConfigError, DataError
from softprompt.registry import unknown_name

Scoring = Literal["trie", "full"]


@dataclass(frozen=True)
class LabelWords:
    """A verbalizer: the text that the backbone would write for each label.

    With `trie` scoring the label words form a tree of tokens; at each branching node a softmax runs over
    that node's children only, and a label's probability is the product along its path. With `full` each
    token's exact log-probability over the vocabulary is summed and the sums are normalised over the labels.

    Args:
        labels: the answers, C of them, distinct, at least two.
        words: for each label the text appended to a row, for instance `" positive"`; distinct.
        scoring: `trie` or `full`.

    Raises:
        DataError: fewer than two labels, or two labels with the same words.

    >>> LabelWords.from_labels(["ham", "spam"]).words
    (' ham', ' spam')
    """

    labels: tuple[str, ...]
    words: tuple[str, ...]
    scoring: Scoring = "trie"

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            raise DataError(
                f"found {len(self.labels)} label(s) ({', '.join(self.labels)}); a classifier needs at least two"
            )
        if len(set(self.labels)) != len(self.labels) or len(self.labels) != len(self.words):
            raise ConfigError(
                f"{len(self.labels)} labels and {len(self.words)} words; give one word list to each, once"
            )
        if self.scoring not in ("trie", "full"):
            raise unknown_name("scoring", self.scoring, ["trie", "full"])
        self._refuse_equal_words()

    def _refuse_equal_words(self) -> None:
        owner: dict[str, str] = {}
        for label, word in zip(self.labels, self.words, strict=True):
            if not word.strip():
                raise DataError(
                    f"the label `{label}` has no words; give it some, for instance words={{'{label}': '...'}}"
                )
            other = owner.setdefault(word, label)
            if other != label:
                raise DataError(
                    f"the labels `{other}` and `{label}` have the same words `{word.strip()}`; give each its own"
                )

    @classmethod
    def from_labels(
        cls,
        labels: Sequence[str],
        words: Mapping[str, str] | None = None,
        scoring: Scoring = "trie",
        *,
        leading_space: bool = True,
    ) -> LabelWords:
        """Choose words from the label names, in any language: underscores become spaces.

        Args:
            labels: the answers, in the order that probabilities will have.
            words: words for some or all labels, in place of their names.
            scoring: `trie` or `full`.
            leading_space: put a space in front, as after `Label:`; switch off where the template ends in a newline.

        Raises:
            UnknownNameError: `words` names a label that is not there.
            DataError: two labels end up with the same words.
        """
        for name in words or {}:
            if name not in labels:
                raise unknown_name("label", name, labels)
        chosen = ((words or {}).get(label, _words_of(label)).strip() for label in labels)
        return cls(tuple(labels), tuple(" " + w if leading_space and w else w for w in chosen), scoring)

    def index(self, label: str) -> int:
        """Return the position of `label`.

        Raises:
            UnknownNameError: no such label; the nearest are offered.
        """
        if label not in self.labels:
            raise unknown_name("label", label, self.labels)
        return self.labels.index(label)

    def to_json(self) -> dict[str, Any]:
        """Return the readout as plain JSON."""
        return {"kind": "label-words", "labels": [*self.labels], "words": [*self.words], "scoring": self.scoring}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LabelWords:
        """Rebuild a readout from `to_json`."""
        return cls(tuple(data["labels"]), tuple(data["words"]), data.get("scoring", "trie"))


def _words_of(label: str) -> str:
    """`card_arrival` reads as `card arrival`; a name of signs alone is left as it is."""
    spaced = " ".join(label.replace("_", " ").split())
    return spaced or label

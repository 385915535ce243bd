"""What turns hidden states into answers: what any readout says of itself, and label words (a verbalizer)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from softprompt.errors import ConfigError, DataError
from softprompt.registry import Registry, unknown_name

Scoring = Literal["trie", "full"]


@runtime_checkable
class Readout(Protocol):
    """What every readout says of itself; how it is computed is the business of `modeling`."""

    @property
    def kind(self) -> str:
        """What `to_json` calls it."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """The answers it chooses among, none where it writes text or numbers."""
        ...

    @property
    def words(self) -> tuple[str, ...]:
        """The text that stands for each of its choices."""
        ...

    @property
    def outputs(self) -> int:
        """How many rows a learned head of it has, 0 where it can have none."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return the readout as plain JSON."""
        ...


READOUTS: Registry[Any] = Registry(
    "readout",
    {
        "label-words": "softprompt.tasks.readout:LabelWords",
        "yes-no": "softprompt.tasks.readout_kinds:YesNo",
        "scalar": "softprompt.tasks.readout_kinds:Scalar",
        "text": "softprompt.tasks.free_text:Text",
        "token-tags": "softprompt.tasks.tags:TokenTags",
    },
)
"""The class of a readout, by the `kind` in its JSON; each has `from_json`."""


def readout_from_json(data: Mapping[str, Any]) -> Readout:
    """Rebuild any readout from its `to_json`.

    >>> readout_from_json(LabelWords.from_labels(["ham", "spam"]).to_json()).labels
    ('ham', 'spam')

    Raises:
        UnknownNameError: no readout has that `kind`.
        DataError: the values are those of no such readout.
    """
    found: Readout = READOUTS.get(str(data.get("kind"))).from_json(data)
    return found


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
    kind: ClassVar[str] = "label-words"

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
        refuse_equal_words(self.labels, self.words)

    @property
    def outputs(self) -> int:
        """C: a learned head has a row for each label."""
        return len(self.labels)

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
        chosen = chosen_words(labels, words)
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
        return {"kind": self.kind, "labels": [*self.labels], "words": [*self.words], "scoring": self.scoring}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LabelWords:
        """Rebuild a readout from `to_json`."""
        return cls(tuple(data["labels"]), tuple(data["words"]), data.get("scoring", "trie"))


def chosen_words(labels: Sequence[str], words: Mapping[str, str] | None) -> list[str]:
    """Return words for each label, from its name where `words` gives none.

    >>> chosen_words(["card_arrival", "0"], {"0": "none"})
    ['card arrival', 'none']

    Raises:
        UnknownNameError: `words` names a label that is not there.
    """
    for name in words or {}:
        if name not in labels:
            raise unknown_name("label", name, labels)
    return [(words or {}).get(label, _words_of(label)).strip() for label in labels]


def refuse_equal_words(labels: Sequence[str], words: Sequence[str]) -> None:
    """Refuse words that cannot tell labels apart.

    Raises:
        DataError: a label has no words, or two have the same.
    """
    owner: dict[str, str] = {}
    for label, word in zip(labels, words, strict=True):
        if not word.strip():
            raise DataError(f"the label `{label}` has no words; give it some, for instance words={{'{label}': '...'}}")
        other = owner.setdefault(word, label)
        if other != label:
            raise DataError(
                f"the labels `{other}` and `{label}` have the same words `{word.strip()}`; give each its own"
            )


def refuse_uneven(what: str, names: Sequence[str], words: Sequence[str], least: int) -> None:
    """Refuse names (of labels, tags ...) that are too few or twice there, or that have no word each.

    Raises:
        DataError: fewer than `least` names.
        ConfigError: a name twice, or another number of words than of names.
    """
    if len(names) < least:
        raise DataError(f"found {len(names)} {what}(s) ({', '.join(names)}); there must be at least {least}")
    if len(set(names)) != len(names) or len(names) != len(words):
        raise ConfigError(f"{len(names)} {what}s and {len(words)} words; give one word list to each, once")


def _words_of(label: str) -> str:
    """`card_arrival` reads as `card arrival`; a name of signs alone is left as it is."""
    spaced = " ".join(label.replace("_", " ").split())
    return spaced or label

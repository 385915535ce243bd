"""A tag for each word: the readout, words and their text, and a row whose words can be found among its tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from softprompt.errors import DataError, TemplateError
from softprompt.registry import unknown_name
from softprompt.tasks.readout import refuse_equal_words, refuse_uneven
from softprompt.tasks.template import Field, Template, TokenizedTemplate, Tokenizer, text_in

_SPACES = re.compile(r"[ \t\r\n\f\v]+")


def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a text that is tagged: what stands between spaces, tabs and line ends.

    >>> words_of("EU rejects  German call")
    ('EU', 'rejects', 'German', 'call')
    """
    return tuple(word for word in _SPACES.split(text) if word)


def joined(words: Sequence[str], where: str) -> str:
    """Return words as the text that `words_of` divides again; a space inside a word becomes a no-break space.

    Args:
        words: as the source divides them.
        where: their row, for the message.

    Raises:
        DataError: there is no word, or one of them is empty.
    """
    shown = [_SPACES.sub("\u00a0", word.strip(" \t\r\n\f\v")) for word in words]
    if not shown:
        raise DataError(f"{where} has no words to tag; take the row out")
    if not all(shown):
        raise DataError(f"{where}: word {shown.index('') + 1} of {len(shown)} is empty; take it out with its tag")
    return " ".join(shown)


@dataclass(frozen=True)
class TokenTags:
    """A tag for each word of one column, read at the word's last token in the last place where the template shows it.

    The choice runs over the tags alone: a softmax over the mean of the output rows of each tag's words, or over
    learned rows that start there.

    Args:
        tags: C of them, distinct, at least two; spans are written `B-X`, `I-X` and `O`.
        words: what stands for each tag; distinct.
        column: the column whose words are tagged.

    Raises:
        DataError: fewer than two tags, a tag without words, or two with the same.
        ConfigError: another number of words than of tags, or a tag twice.

    >>> TokenTags.from_tags(["B-PER", "I-PER", "O"]).words
    (' person', ' inside person', ' outside')
    """

    tags: tuple[str, ...]
    words: tuple[str, ...]
    column: str = "tokens"
    kind: ClassVar[str] = "token-tags"

    def __post_init__(self) -> None:
        refuse_uneven("tag", self.tags, self.words, least=2)
        refuse_equal_words(self.tags, self.words)

    @property
    def labels(self) -> tuple[str, ...]:
        """The tags, in the order that probabilities have."""
        return self.tags

    @property
    def outputs(self) -> int:
        """C: a learned head has a row for each tag."""
        return len(self.tags)

    @property
    def outside(self) -> str:
        """The tag of a word that the row had no room for: `O`, or the first tag where there is none."""
        return "O" if "O" in self.tags else self.tags[0]

    @classmethod
    def from_tags(
        cls, tags: Sequence[str], words: Mapping[str, str] | None = None, *, column: str = "tokens"
    ) -> TokenTags:
        """Choose words from the tags' names; `B-` is left out, `I-` said as inside, usual short forms written out.

        Raises:
            UnknownNameError: `words` names a tag that is not there.
            DataError: two tags end up with the same words.
        """
        spoken = {tag: _spoken(tag) for tag in tags}
        if len(set(spoken.values())) < len(spoken):
            spoken = {tag: tag for tag in tags}
        for tag in words or {}:
            if tag not in tags:
                raise unknown_name("tag", tag, tags)
        chosen = ((words or {}).get(tag, spoken[tag]).strip() for tag in tags)
        return cls(tuple(tags), tuple(" " + word if word else word for word in chosen), column)

    def to_json(self) -> dict[str, Any]:
        """Return the readout as plain JSON."""
        return {"kind": self.kind, "tags": [*self.tags], "words": [*self.words], "column": self.column}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TokenTags:
        """Rebuild a readout from `to_json`."""
        return cls(tuple(data["tags"]), tuple(data["words"]), data["column"])


_SHORT_FORMS = {
    "per": "person", "loc": "location", "org": "organization", "misc": "other", "gpe": "place", "fac": "building",
    "prod": "product", "evt": "event", "o": "outside",
}  # fmt: skip


def _spoken(tag: str) -> str:
    """`B-PER` reads as `person`, `I-PER` as `inside person`, `O` as `outside`."""
    found = re.fullmatch(r"([BIESLU])-(.+)", tag)
    place, name = (found[1], found[2]) if found else ("B", tag)
    plain = " ".join(name.replace("_", " ").split()).lower()
    where = {"I": "inside ", "E": "end ", "L": "last ", "S": "single ", "U": "single "}.get(place, "")
    return where + _SHORT_FORMS.get(plain, plain or name)


class TaggedRow(NamedTuple):
    """A row of tokens and, for each word of the tagged column that it has room for, the index of its last token.

    `cut` counts the tokens that were removed to make the row fit.
    """

    ids: tuple[int, ...]
    cut: int
    ends: tuple[int, ...]


class TaggedTemplate(TokenizedTemplate):
    """A template whose tagged column is tokenised word by word, so that each word's last token is known.

    The space in front of a word belongs to it; for a tokenizer that never joins words, as nearly all, these are
    the tokens of the whole text.

    Args:
        template: the pattern; the last place of the tagged column is the one that is read.
        tokenizer: of the backbone.
        virtual_tokens: P.
        column: the tagged column.

    Raises:
        TemplateError: the template does not show the column.
    """

    def __init__(self, template: Template, tokenizer: Tokenizer, virtual_tokens: int, column: str) -> None:
        if column not in template.fields:
            raise TemplateError(
                f"the template `{template.pattern}` does not show the tagged column; write {{{column}}} into it, "
                "twice where the model reads from left to right"
            )
        super().__init__(template, tokenizer, virtual_tokens)
        self.column = column

    def tagged(self, values: Mapping[str, str], limit: int | None = None) -> TaggedRow:
        """Return the tokens of one row and where its words end; arguments and errors as for `row`."""
        fields = [piece for piece in self._row_pieces if isinstance(piece, Field)]
        texts = [self._field(piece, values) for piece in fields]
        cut = self._shorten(texts, limit)
        last = max(i for i, piece in enumerate(fields) if piece.name == self.column)
        ids: list[int] = []
        start, number = 0, 0
        for fixed in self._row_fixed:
            if fixed is None:
                start, number = (len(ids) if number == last else start), number + 1
            ids += texts[number - 1] if fixed is None else fixed
        return TaggedRow(tuple(ids), cut, self._ends(fields[last], values, start, len(texts[last])))

    def _ends(self, piece: Field, values: Mapping[str, str], start: int, room: int) -> tuple[int, ...]:
        """Where each word ends that is whole within `room` tokens; one without tokens ends where the last one did."""
        ends, end = [], 0
        for word in self._by_word(piece, values):
            end += len(word)
            if end > room:
                break
            ends.append(max(0, start + end - 1))
        return tuple(ends)

    def _field(self, piece: Field, values: Mapping[str, str]) -> list[int]:
        text_in(values, piece.name)
        if piece.name != self.column:
            return super()._field(piece, values)
        return [token for word in self._by_word(piece, values) for token in word]

    def _by_word(self, piece: Field, values: Mapping[str, str]) -> list[list[int]]:
        words = words_of(values[piece.name])
        shown = (piece.lead + word if i == 0 else " " + word for i, word in enumerate(words))
        return [self._tokenizer.encode(word, add_special_tokens=False) for word in shown]

"""The pattern of one row: literal text, fields, the tokens that frame a row, the mask and the soft slots."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

from softprompt.errors import DataError, TemplateError
from softprompt.registry import unknown_name

TOKENISATION = "pieces/1"
"""The one rule by which rows become tokens, stored in every prompt file.

Each literal and each field value is tokenised by itself, without special tokens, and the pieces are
joined. Spaces (not newlines) that end a literal right before a field belong to the field's text, so that
`Text: {text}` meets the tokenizer as `Text:` and ` a gripping film`. Spaces right before `{mask}` are dropped, as the
tokenizers that tell spaces apart do it themselves.
"""

_SLOT = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@runtime_checkable
class Tokenizer(Protocol):
    """What a template needs of a tokenizer."""

    bos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]:
        """Return the token ids of a text."""
        ...


class Literal(NamedTuple):
    """Text that is the same in every row."""

    text: str


class Field(NamedTuple):
    """A column's value; `lead` is the space in front of it that its literal handed over."""

    name: str
    lead: str


class Bos(NamedTuple):
    """The beginning-of-sequence token, else the classification token; nothing where the tokenizer has neither."""


class Sep(NamedTuple):
    """The separator, else the end-of-sequence token; nothing where the tokenizer has neither."""


class Mask(NamedTuple):
    """The token that an encoder is asked to fill in."""


class Soft(NamedTuple):
    """Virtual tokens; how many is the prompt's business."""


Piece = Literal | Field | Bos | Sep | Mask | Soft

_SLOTS: Mapping[str, Piece] = {"bos": Bos(), "sep": Sep(), "mask": Mask(), "soft": Soft()}
TOKENS_OF_SLOTS: Mapping[type[Piece], tuple[str, ...]] = {
    Bos: ("bos_token_id", "cls_token_id"),
    Sep: ("sep_token_id", "eos_token_id"),
    Mask: ("mask_token_id",),
}
"""The token of a slot is the first of these that the tokenizer has."""


SLOT_FEATURES = frozenset({"mask", "sep"})
"""Slots that were columns before they were slots: a prompt file whose pattern has them requires them by name."""


class TokenRow(NamedTuple):
    """The part of a row that is its own: token ids, with virtual token k written -1-k.

    `cut` counts the tokens that were removed from its fields to make it fit. `masks` are the columns of its `{mask}`
    slots, counted from the first token of the template's prefix; a mask token that stands in a text is none of them.
    """

    ids: tuple[int, ...]
    cut: int
    masks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Template:
    r"""The pattern of one row; where its soft slots stand is the placement of the prompt.

    Slots are `{bos}`, `{sep}`, `{mask}`, `{soft}` (anywhere, any number of times) and `{column}`; `{{` and `}}` are
    braces. A pattern is read by this module alone and never evaluated.

    Args:
        pattern: for instance `"{bos}{soft}Text: {text}\nLabel:"`.
        max_tokens: longest row in tokens, virtual tokens included; `None` leaves it to the backbone.

    Raises:
        TemplateError: the braces do not pair, a slot has no name, no field is named, or `max_tokens` < 1.

    >>> Template("{bos}{soft}Text: {text}\nLabel:").placement
    'prefix'
    """

    pattern: str
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if not self.fields:
            raise TemplateError(
                f"the template `{self.pattern}` names no field, so every row would be the same; "
                "write the column of the text in braces, for instance {text}"
            )
        if self.max_tokens is not None and self.max_tokens < 1:
            raise TemplateError(f"max_tokens is {self.max_tokens}; it must be at least 1")

    @classmethod
    def default(
        cls,
        text_fields: Sequence[str],
        label_field: str,
        max_tokens: int | None = None,
        *,
        kind: str = "decoder",
        masked: bool = False,
    ) -> Template:
        r"""Return the usual pattern of a kind of backbone, the prompt in front.

        A decoder reads each field on a named line, then the answer's name. An encoder reads its texts one behind the
        other, each closed by its separator, and is pooled; with `masked` it fills in the answer. An encoder-decoder
        reads the text, and names only where there are several.

        >>> Template.default(["text"], "sentiment").pattern
        '{bos}{soft}Text: {text}\nSentiment:'
        >>> Template.default(["text"], "sentiment", kind="encoder").pattern
        '{bos}{soft}{text}{sep}'
        >>> Template.default(["text"], "sentiment", kind="encoder", masked=True).pattern
        '{bos}{soft}{text} Sentiment: {mask}{sep}'
        >>> Template.default(["premise", "claim"], "label", kind="encoder-decoder").pattern
        '{bos}{soft}Premise: {premise} Claim: {claim}{sep}'

        Args:
            text_fields: the columns of the text.
            label_field: the column of the answer.
            max_tokens: longest row in tokens, virtual tokens included.
            kind: `decoder`, `encoder` or `encoder-decoder`, as backbones name it.
            masked: of an encoder: end with the answer's name and a mask.

        Raises:
            UnknownNameError: another kind.
        """
        if kind not in _DEFAULTS:
            raise unknown_name("kind of backbone", kind, _DEFAULTS)
        return cls(_DEFAULTS[kind](text_fields, _title(label_field), masked), max_tokens)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """The pattern, read: literals, fields and the other slots in order."""
        return tuple(_read(self.pattern))

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns that the pattern names, each once, in order."""
        return tuple(dict.fromkeys(p.name for p in self.pieces if isinstance(p, Field)))

    @property
    def soft_slots(self) -> int:
        """How many `{soft}` the pattern has."""
        return sum(isinstance(p, Soft) for p in self.pieces)

    @property
    def placement(self) -> str:
        """Where the prompt stands: `prefix`, `suffix`, `infix`, `interleaved` or `none`."""
        fields_before, zones = 0, set()
        total = sum(isinstance(p, Field) for p in self.pieces)
        for piece in self.pieces:
            if isinstance(piece, Field):
                fields_before += 1
            elif isinstance(piece, Soft):
                zones.add(fields_before)
        if not zones:
            return "none"
        if len(zones) > 1:
            return "interleaved"
        return {0: "prefix", total: "suffix"}.get(zones.pop(), "infix")

    def tokenize(self, tokenizer: Tokenizer, virtual_tokens: int) -> TokenizedTemplate:
        """Return this template in the tokens of one backbone, for a prompt of `virtual_tokens` (P >= 0).

        Raises:
            TemplateError: P > 0 and the pattern has no `{soft}` to put them in, or it has a `{mask}` and the tokenizer
                has no mask token.
        """
        if virtual_tokens and not self.soft_slots:
            raise TemplateError(
                f"the template `{self.pattern}` has no {{soft}} slot for its {virtual_tokens} virtual tokens; "
                "put {soft} where they should stand"
            )
        return TokenizedTemplate(self, tokenizer, virtual_tokens)

    def to_json(self) -> dict[str, Any]:
        """Return the template as plain JSON."""
        return {"pattern": self.pattern, "max_tokens": self.max_tokens}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Template:
        """Rebuild a template from `to_json`."""
        return cls(data["pattern"], data.get("max_tokens"))


def slots_required(pattern: str) -> frozenset[str]:
    """Return which of `SLOT_FEATURES` a pattern uses.

    Raises:
        TemplateError: the braces do not pair.

    >>> sorted(slots_required("{bos}{soft}{text} {mask}{sep}"))
    ['mask', 'sep']
    """
    return SLOT_FEATURES & {value for kind, value in _scan(pattern) if kind == "slot"}


class TokenizedTemplate:
    """A template in the tokens of one backbone.

    Attributes:
        prefix: tokens of everything before the first field, the same for every row; virtual token k is -1-k.
    """

    _row_fixed: Sequence[list[int] | None] = ()  # of a conversation they depend on its turns

    def __init__(self, template: Template, tokenizer: Tokenizer, virtual_tokens: int) -> None:
        self.template = template
        self._tokenizer = tokenizer
        self._soft = _spread(virtual_tokens, template.soft_slots)
        first = next(i for i, piece in enumerate(template.pieces) if isinstance(piece, Field))
        slot = sum(isinstance(piece, Soft) for piece in template.pieces[:first])
        self._row_pieces = template.pieces[first:]
        before = self._fixed(template.pieces[:first], 0)
        self.prefix: tuple[int, ...] = tuple(token for ids in before for token in ids)
        self._prefix_masks = _columns_of_masks(template.pieces[:first], before, 0)
        fixed = self._fixed(self._row_pieces, slot)
        self._row_fixed = [
            None if isinstance(p, Field) else ids for p, ids in zip(self._row_pieces, fixed, strict=True)
        ]
        self._overhead = len(self.prefix) + sum(len(ids) for ids in self._row_fixed if ids)

    @property
    def literals(self) -> tuple[int, ...]:
        """The tokens that every row has: those of the prefix, and those of the pieces behind the first field."""
        return (*self.prefix, *(token for ids in self._row_fixed for token in ids or ()))

    def row(self, values: Mapping[str, str], limit: int | None = None) -> TokenRow:
        """Return the tokens of one row from its first field on, its fields shortened to fit `limit`.

        The longest field gives way first, from its end; soft tokens and literals never do.

        Args:
            values: the row's columns; others than the template's are ignored.
            limit: most tokens for prefix and row together; the template's `max_tokens` may lower it.

        Raises:
            TemplateError: a field is missing, the row has no token at all, or even empty fields would not fit.
            DataError: the row is no mapping, or a field of it holds no text.
        """
        texts = [self._field(piece, values) for piece in self._row_pieces if isinstance(piece, Field)]
        cut = self._shorten(texts, limit)
        fields = iter(texts)
        parts = [next(fields) if fixed is None else fixed for fixed in self._row_fixed]
        ids = tuple(token for part in parts for token in part)
        if not ids:
            raise TemplateError(
                f"this row is empty, and the template `{self.template.pattern}` puts nothing behind its field to read "
                "an answer from; end the template with a few words, for instance `\\nLabel:`"
            )
        masks = _columns_of_masks(self._row_pieces, parts, len(self.prefix))
        return TokenRow(ids, cut, self._prefix_masks + masks)

    def _field(self, piece: Field, values: Mapping[str, str]) -> list[int]:
        text = piece.lead + text_in(values, piece.name)
        return self._tokenizer.encode(text, add_special_tokens=False) if text else []

    def _shorten(self, texts: list[list[int]], limit: int | None) -> int:
        """Cut the longest field first until the row fits; return how many tokens went."""
        bounds = [n for n in (limit, self.template.max_tokens) if n is not None]
        if not bounds:
            return 0
        room = min(bounds) - self._overhead
        if room < 1:
            raise TemplateError(
                f"the prompt and the template's own words take {self._overhead} tokens of {min(bounds)}, "
                "which leaves no room for the text; use fewer virtual tokens or a shorter template"
            )
        lengths = [len(text) for text in texts]
        texts[:] = [text[:n] for text, n in zip(texts, _levelled(lengths, room), strict=True)]
        return max(0, sum(lengths) - room)

    def _fixed(self, pieces: Sequence[Piece], slot: int) -> list[list[int]]:
        """Tokens of every piece but fields (empty for those); `slot` is the number of soft slots before them."""
        out: list[list[int]] = []
        for piece in pieces:
            if isinstance(piece, Soft):
                start, count = self._soft[slot]
                out.append([-1 - k for k in range(start, start + count)])
                slot += 1
            elif isinstance(piece, Literal):
                out.append(self._tokenizer.encode(piece.text, add_special_tokens=False))
            elif isinstance(piece, Bos | Sep | Mask):
                out.append(self._token(piece))
            else:
                out.append([])
        return out

    def _token(self, piece: Bos | Sep | Mask) -> list[int]:
        """The token of a slot, or nothing; only a mask cannot be done without."""
        found = (getattr(self._tokenizer, name, None) for name in TOKENS_OF_SLOTS[type(piece)])
        ids = [index for index in found if index is not None][:1]
        if not ids and isinstance(piece, Mask):
            raise TemplateError(
                f"the template `{self.template.pattern}` has a {{mask}} slot, but this backbone's tokenizer has no "
                "mask token; only encoders trained to fill one in can be asked so: end the template without it"
            )
        return ids


def text_in(row: Any, field: str) -> str:
    """Return the text of a row's field.

    Raises:
        TemplateError: the row lacks the field.
        DataError: the row is no mapping, or what it holds there is no text.

    >>> text_in({"text": "a gripping film"}, "text")
    'a gripping film'
    """
    if not isinstance(row, Mapping):
        raise DataError(
            f"a row is {type(row).__name__} ({str(row)[:40]!r}), and a row is a mapping from column to text; "
            f"give it as {{{field!r}: ...}}"
        )
    if field not in row:
        there = ", ".join(map(repr, row)) or "none"
        raise TemplateError(f"the template asks for the field `{field}`; the row has {there}")
    text = row[field]
    if not isinstance(text, str):
        raise DataError(f"the row holds {text!r:.40} in `{field}`, which is not text; give its words, or empty text")
    return text


def _levelled(lengths: Sequence[int], room: int) -> list[int]:
    """Take one from the longest, the first among equals, again and again until all together are `room`, at least 1.

    That is: all are cut to one level, the lowest that still fills the room, and the first of them to one below it.
    """
    if sum(lengths) <= room:
        return list(lengths)
    level = bisect_left(range(max(lengths)), room, key=lambda n: sum(min(length, n) for length in lengths))
    cut = [min(length, level) for length in lengths]
    at_level = [place for place, length in enumerate(cut) if length == level]
    for place in at_level[: sum(cut) - room]:
        cut[place] -= 1
    return cut


def _columns_of_masks(pieces: Sequence[Piece], parts: Sequence[Sequence[int]], start: int) -> tuple[int, ...]:
    """The columns of the `{mask}` slots among `pieces`, whose tokens are `parts`; the first column is `start`."""
    columns = []
    for piece, part in zip(pieces, parts, strict=True):
        if isinstance(piece, Mask):
            columns.append(start)
        start += len(part)
    return tuple(columns)


def _spread(virtual_tokens: int, slots: int) -> list[tuple[int, int]]:
    """Share P virtual tokens among the slots as evenly as can be, earlier slots first: (start, count) each."""
    out, start = [], 0
    for slot in range(slots):
        count = virtual_tokens // slots + (slot < virtual_tokens % slots)
        out.append((start, count))
        start += count
    return out


def _title(name: str) -> str:
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def _decoder(fields: Sequence[str], label: str, masked: bool) -> str:
    lines = [f"{_title(name)}: {{{name}}}" for name in fields]
    return "{bos}{soft}" + "\n".join([*lines, f"{label}:"])


def _encoder(fields: Sequence[str], label: str, masked: bool) -> str:
    texts = "{sep}".join(f"{{{name}}}" for name in fields)
    return "{bos}{soft}" + texts + (f" {label}: {{mask}}" if masked else "") + "{sep}"


def _encoder_decoder(fields: Sequence[str], label: str, masked: bool) -> str:
    texts = [f"{{{name}}}" if len(fields) == 1 else f"{_title(name)}: {{{name}}}" for name in fields]
    return "{bos}{soft}" + " ".join(texts) + "{sep}"


_DEFAULTS: Mapping[str, Callable[[Sequence[str], str, bool], str]] = {
    "decoder": _decoder,
    "encoder": _encoder,
    "encoder-decoder": _encoder_decoder,
}


def _read(pattern: str) -> Iterator[Piece]:
    """Read a pattern into pieces, handing the spaces that end a literal to the field that follows."""
    text = ""
    for kind, value in _scan(pattern):
        if kind == "text":
            text += value
            continue
        lead = text[len(text.rstrip(" ")) :] if value == "mask" or value not in _SLOTS else ""
        body = text[: len(text) - len(lead)]
        if body:
            yield Literal(body)
        text = ""
        yield _SLOTS[value] if value in _SLOTS else Field(value, lead)
    if text:
        yield Literal(text)


def _scan(pattern: str) -> Iterator[tuple[str, str]]:
    """Split a pattern into ("text", literal) and ("slot", name)."""
    end = 0
    for match in _SLOT.finditer(pattern):
        if match.start() > end:
            yield "text", pattern[end : match.start()]
        end = match.end()
        if match[0] in ("{{", "}}"):
            yield "text", match[0][0]
        elif match[1] is None or not match[1].strip():
            raise TemplateError(
                f"the template `{pattern}` has a stray `{match[0]}` at character {match.start()}; "
                "a slot is a name in braces, and a brace itself is written {{ or }}"
            )
        else:
            yield "slot", match[1].strip()
    if end < len(pattern):
        yield "text", pattern[end:]

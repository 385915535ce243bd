"""The tokens that stand for no text, and which of them a tokenizer puts around a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of one tokenizer, as ids.

    Attributes:
        bos: what begins a row: the beginning-of-sequence token, else the classification token.
        sep: what ends a text: the separator, else the end-of-sequence token.
        eos: the end-of-sequence token.
        mask: the token to be filled in.
        pad: for padding; masked wherever it stands, so any id will do where the tokenizer has none.
        before: what the tokenizer itself puts before a row.
        after: what the tokenizer itself puts behind a row.
    """

    bos: int | None
    sep: int | None
    eos: int | None
    mask: int | None
    pad: int
    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any) -> SpecialTokens:
        """Read them from a tokenizer; what stands around a row is read from how it tokenises one letter."""
        names = ("bos", "cls", "sep", "eos", "mask", "pad")
        bos, cls_, sep, eos, mask, pad = (getattr(tokenizer, f"{name}_token_id", None) for name in names)
        before, after = _around(tokenizer)
        return cls(_first(bos, cls_), _first(sep, eos), eos, mask, _first(pad, eos, 0) or 0, before, after)


def _first(*ids: int | None) -> int | None:
    return next((index for index in ids if index is not None), None)


def _around(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    plain = tokenizer.encode("a", add_special_tokens=False)
    whole = tokenizer.encode("a")
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return tuple(whole[:start]), tuple(whole[start + len(plain) :])
    return (), ()

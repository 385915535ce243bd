"""What a token is by itself, as text, and what is told of tokens as they are written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from softprompt.modeling.writing import Writing
from softprompt.serving.asking import Piece, Token

_HALF = "\ufffd"
"""What bytes become that are no whole character."""


class TokenTexts:
    """The text of each token by itself, as it reads inside a text; asked of the tokenizer once.

    Args:
        tokenizer: the backbone's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}
        # Behind another token, since some tokenizers take the space off a text's first word.
        self._front: list[int] = tokenizer.encode("a", add_special_tokens=False)[-1:]
        self._lead: str = self._decode(self._front)

    def of(self, token: int) -> str:
        """Return the text of a token; of bytes that are no whole character, a replacement character."""
        text = self._known.get(token)
        if text is None:
            text = self._known[token] = self._decode([*self._front, token]).removeprefix(self._lead)
        return text

    def piece(self, writing: Writing) -> Piece | None:
        """Return what has become certain of an answer since the last time; None where nothing has."""
        text, which = writing.fresh()
        if not text and not len(which):
            return None
        return Piece(text, tuple(self._token(writing, at) for at in which))

    def _token(self, writing: Writing, at: int) -> Token:
        token = writing.tokens[at]
        return Token(token, self.of(token), writing.log_probabilities[at], self._told(writing.likeliest[at]))

    def _told(self, likeliest: Iterable[tuple[int, float]]) -> tuple[tuple[int, str, float], ...]:
        return tuple((token, self.of(token), log_probability) for token, log_probability in likeliest)

    def _decode(self, tokens: list[int]) -> str:
        decoded: str = self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return decoded


def bytes_of(tokenizer: Any, token: int, text: str) -> bytes | None:
    r"""Return the bytes that a token stands for, also where they are only a part of a character.

    >>> bytes_of(None, 5, "é")
    b'\xc3\xa9'

    Args:
        tokenizer: the backbone's, asked only where the text does not tell.
        token: its id.
        text: as `TokenTexts` has it.

    Returns:
        The bytes, or None where they are part of a character and the tokenizer does not say which.
    """
    if _HALF not in text:
        return text.encode()
    piece = str(tokenizer.convert_ids_to_tokens(token))
    fallback, alphabet = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", piece), _byte_level()
    if fallback:
        return bytes.fromhex(fallback[1])
    if all(letter in alphabet for letter in piece):
        return bytes(alphabet[letter] for letter in piece)
    return text.encode() if _HALF in piece else None  # a vocabulary may have the replacement character itself


@cache
def _byte_level() -> Mapping[str, int]:
    """The letters by which byte-level tokenizers, GPT-2's and those after it, write bytes in their vocabulary."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted({*range(0x100)} - {*plain})
    return {chr(byte): byte for byte in plain} | {chr(0x100 + number): byte for number, byte in enumerate(others)}

"""What a token is by itself, as text, and what is told of tokens as they are written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from softprompt.modeling.writing import Writing
from softprompt.serving.asking import Piece, Token


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

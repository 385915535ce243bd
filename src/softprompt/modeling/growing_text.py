"""Text that grows token by token, told as soon as nothing that comes can change it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

_HALF = "\ufffd"
"""What bytes become that are no character, or not yet."""
_BROKEN = 64
"""After so many tokens without the end of a character, what is there is no half character any more."""


class GrowingText:
    """Text that grows by tokens, of which that is held back which could still become something else.

    A token's text can depend on the one before it (a space, half a character), so each is decoded behind those in front
    of it whose text is settled, and what these are by themselves is taken off.

    Args:
        tokenizer: decodes tokens.
        lead: what the text begins with and is no part of it.
        stops: texts that end it.
    """

    def __init__(self, tokenizer: Any, lead: str, stops: Sequence[str]) -> None:
        self._tokenizer, self._lead, self._stops = tokenizer, lead, stops
        self._window: list[int] = []  # tokens that are settled, for their context, and behind them those that are not
        self._settled = 0  # how many of the window's tokens are settled
        self._known = 0  # how many characters of the window's text have been heard
        self._held = ""  # heard, and perhaps the beginning of a stop or of the lead
        self._sure: list[str] = []  # the text, as far as it is certain
        self._told = 0  # how many pieces of it `fresh` has told
        self._count = self._shown = 0  # tokens added, and those that `fresh` has told
        self._marks: deque[tuple[int, int]] = deque()  # after so many tokens the text had so many characters
        self._stopped = False
        self._heard = self._given = 0  # characters of the text, and those of them that are certain

    def add(self, token: int) -> bool:
        """Add a token; return whether a stop has come."""
        self._count += 1
        self._window.append(token)
        text = self._decode(self._window)
        old = len(self._window) - self._settled >= _BROKEN
        whole = old or not text.endswith(_HALF)
        sure = text if whole else text.rstrip(_HALF)
        piece, self._known = sure[self._known :], max(self._known, len(sure))
        if old or (whole and piece):  # tokens without text are no context for others
            del self._window[: self._settled]
            self._settled, self._known = len(self._window), len(self._decode(self._window))
        stopped = self._hear(piece)
        if whole:
            self._marks.append((self._count, self._heard))
        return stopped

    def end(self) -> bool:
        """Settle what is held back, for nothing more comes; return whether a stop has come after all."""
        if not self._stopped and not self._hear(self._decode(self._window)[self._known :], last=True):
            self._give(len(self._held))
        self._held = ""
        return self._stopped

    def fresh(self, tokens: int, *, ended: bool) -> tuple[str, range]:
        """Return the text and the tokens, of `tokens` in all, that have become certain."""
        text, self._told = "".join(self._sure[self._told :]), len(self._sure)
        before = self._shown
        while self._marks and self._marks[0][1] <= self._given:
            self._shown = self._marks.popleft()[0]
        if ended:
            self._shown = tokens
        return text, range(before, self._shown)

    def whole(self) -> str:
        """Return the text so far; what is held back is part of it."""
        return "".join(self._sure) + self._held

    def _hear(self, piece: str, *, last: bool = False) -> bool:
        """Take in characters; give those that are certain; return whether they bring a stop, which ends the text."""
        self._held += piece
        led = self._led(last)
        self._heard = self._given + len(self._held)
        if not led:
            return False
        ends = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        self._give(min(ends, default=len(self._held) - self._begun()))
        self._stopped = bool(ends)
        return self._stopped

    def _led(self, last: bool) -> bool:
        """Take the lead off; return whether that is settled."""
        if not last and self._lead != self._held and self._lead.startswith(self._held):
            return False
        if self._lead:
            self._held, self._lead = self._held.removeprefix(self._lead), ""
            self._marks.clear()  # they counted the lead; the next one stands for them
        return True

    def _begun(self) -> int:
        """How many of the last characters begin a stop."""
        longest = min(max(map(len, self._stops), default=0) - 1, len(self._held))
        tails = (length for length in range(longest, 0, -1) if self._begins(self._held[-length:]))
        return next(tails, 0)

    def _begins(self, tail: str) -> bool:
        return any(stop.startswith(tail) for stop in self._stops)

    def _give(self, count: int) -> None:
        """Count so many of the characters that were held back as certain."""
        if count:
            self._sure.append(self._held[:count])
        self._held, self._given = self._held[count:], self._given + count

    def _decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens as they are: spaces in front of punctuation are not tidied away."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

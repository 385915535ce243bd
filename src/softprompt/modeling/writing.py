"""One row's answer while it is being written: its tokens, and its text as soon as it is certain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from softprompt.errors import ConfigError
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.growing_text import GrowingText
from softprompt.modeling.readings import EncodedRow
from softprompt.modeling.sampling import Sampling
from softprompt.modeling.text import TextReading

MOST_LIKELIEST = 20
"""How many of the likeliest tokens can be told at each token."""

Likeliest = tuple[tuple[int, float], ...]
"""Tokens and their log-probabilities in nats, the likeliest first."""


@dataclass(frozen=True)
class Written:
    """A text that was written behind a row.

    Attributes:
        text: the answer, its lead and its end taken off.
        tokens: the tokens that were written, the end included.
        finished: whether it ended by itself: by the end-of-sequence token or a stop.
        log_probability: of its tokens, added up, in nats.
    """

    text: str
    tokens: tuple[int, ...]
    finished: bool
    log_probability: float


class Writing:
    """An answer that is being written behind one row (`PromptedModel.begin` starts it).

    It ends at a token that ends the reading's answers, at a stop, of the readout or of the request, or at its last
    token. Where several come together, a stop counts before the number of tokens.

    Args:
        bound: the prompt, read out as text.
        number: makes the row's stream of random numbers its own.
        sampling: how its tokens are chosen; by default the likeliest one.
        max_tokens: most tokens, at least 1; `None`, or more than the readout allows: what the readout allows.
        stop: texts that end it besides the readout's own, and are no part of it.
        likeliest: how many of the likeliest tokens are told at each token, 0 to 20.

    Attributes:
        tokens: those written so far, the end included.
        log_probabilities: of each token, in nats, as the backbone gives it: before penalty, temperature and filters.
        likeliest: at each token the likeliest ones in its place, told in the same way.
        ended: why it ended, or `None`.
        cut: tokens removed from its row to make it fit.
        prompt_tokens: in front of the answer: the prompt's virtual tokens and words, and the row.

    Raises:
        ConfigError: the prompt is not read out as text, or a value out of range.
    """

    def __init__(
        self,
        bound: BoundPrompt,
        *,
        number: int = 0,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        likeliest: int = 0,
    ) -> None:
        reading = _reading_of(bound)
        _check(max_tokens, stop, likeliest)
        self.bound, self.number, self.sampling = bound, number, sampling or Sampling()
        most = reading.readout.max_new_tokens
        self.most = most if max_tokens is None else min(max_tokens, most)
        self.asked = likeliest
        self.stream = self.sampling.stream(number)
        self.tokens: list[int] = []
        self.log_probabilities: list[float] = []
        self.likeliest: list[Likeliest] = []
        self.ended: Literal["stop", "length"] | None = None
        self.cut = self.prompt_tokens = 0
        self.seen: set[int] = set()
        self._ends = reading.ends
        self._text = GrowingText(reading.backbone.tokenizer, reading.lead, (*reading.readout.stop, *stop))

    def behind(self, row: EncodedRow) -> None:
        """Begin behind a row, or go on behind one at whose end the tokens written so far stand."""
        self.cut = row.cut
        self.prompt_tokens = len(self.bound.template.prefix) + len(row.ids) - len(self.tokens)
        self.seen.update(token for token in row.ids if token >= 0)

    def take(self, token: int, log_probability: float, likeliest: Likeliest = ()) -> None:
        """Take the next token, and end if it is the last."""
        self.tokens.append(token)
        self.seen.add(token)
        self.log_probabilities.append(log_probability)
        self.likeliest.append(likeliest)
        if token in self._ends or self._text.add(token):
            self.ended = "stop"
        elif len(self.tokens) >= self.most:
            self.ended = "length"
        if self.ended is not None and self._text.end():
            self.ended = "stop"

    def fresh(self) -> tuple[str, range]:
        """Return the text that has become certain since the last call, and which tokens have become certain with it.

        Nothing in it could still become a stop, no character is half there, and the lead is not told. All fresh texts
        together are the text of `written`; the last call's tokens go to the end.
        """
        return self._text.fresh(len(self.tokens), ended=self.ended is not None)

    def written(self) -> Written:
        """Return what has been written; the answer, once it has ended."""
        total = sum(self.log_probabilities)
        return Written(self._text.whole(), tuple(self.tokens), self.ended == "stop", total)


def _reading_of(bound: BoundPrompt) -> TextReading:
    if not isinstance(bound.reading, TextReading):
        raise ConfigError(
            "text was asked of a prompt whose answers are chosen, not written; use `score` for it, or train one for "
            "generation"
        )
    return bound.reading


def _check(max_tokens: int | None, stop: Sequence[str], likeliest: int) -> None:
    if max_tokens is not None and max_tokens < 1:
        raise ConfigError(f"max_tokens is {max_tokens}; an answer has at least 1 token")
    if isinstance(stop, str) or not all(stop):
        raise ConfigError(f"stop is {stop!r}; give a sequence of texts, none of them empty")
    if not 0 <= likeliest <= MOST_LIKELIEST:
        raise ConfigError(f"likeliest is {likeliest}; it is 0 to {MOST_LIKELIEST} tokens")

"""Answers as JSON: what was read off a row, and tokens that were written, as OpenAI's clients read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from softprompt.modeling.answers import Answer, LabelSet, NumberAnswer, TagsAnswer, TextAnswer
from softprompt.serving.asking import Reason, Token

FINISH: dict[Reason, str] = {"read": "stop", "stop": "stop", "length": "length"}
_LEAST = -9999.0
"""Stands for minus infinity, which JSON has no word for; OpenAI's number."""


def answer_data(answer: Answer) -> dict[str, Any]:
    """Return all there is to an answer that was read, as plain JSON.

    `label` is what it says in one word, also where it was held back (`abstained`); `cut` counts the tokens that were
    removed from the row to make it fit.
    """
    told: dict[str, Any] = {"label": answer.label, "probability": answer.probability}
    told |= {"probabilities": dict(answer.probabilities), "abstained": answer.abstained, "cut": answer.cut}
    if isinstance(answer, LabelSet):
        told["labels"] = list(answer.labels)
    elif isinstance(answer, NumberAnswer):
        told["number"] = answer.number
    elif isinstance(answer, TagsAnswer):
        told |= {"tags": list(answer.tags), "words": list(answer.words), "spans": answer.cells()["spans"]}
    return told


def beside(answer: Answer) -> dict[str, Any]:
    """Return what a choice says of its answer besides its text: nothing of a text that answers a whole row."""
    if isinstance(answer, TextAnswer):
        return {"answer": {"cut": answer.cut}} if answer.cut else {}
    return {"answer": answer_data(answer)}


def chat_logprobs(tokens: Sequence[Token]) -> dict[str, Any]:
    """Return tokens as the `logprobs` of a chat's choice."""
    content = [
        {
            **_chat_token(token.text, token.log_probability),
            "top_logprobs": [_chat_token(text, value) for _, text, value in token.likeliest],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[Token], told: int, start: int = 0) -> dict[str, Any]:
    """Return tokens as the `logprobs` of a completion's choice.

    Args:
        tokens: those that were written.
        told: how many of the likeliest were asked for at each.
        start: characters of the tokens that were told before.
    """
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [_finite(token.log_probability) for token in tokens],
        "top_logprobs": [_likeliest(token) for token in tokens] if told else None,
        "text_offset": list(_offsets((len(token.text) for token in tokens), start)),
    }


def _chat_token(text: str, log_probability: float) -> dict[str, Any]:
    return {"token": text, "logprob": _finite(log_probability), "bytes": list(text.encode())}


def _likeliest(token: Token) -> dict[str, float]:
    """The likeliest tokens by their text, and the one that was written; of two with one text, the likelier."""
    found: dict[str, float] = {}
    for _, text, value in token.likeliest:
        found.setdefault(text, _finite(value))
    found.setdefault(token.text, _finite(token.log_probability))
    return found


def _offsets(lengths: Iterable[int], start: int) -> Iterable[int]:
    for length in lengths:
        yield start
        start += length


def _finite(value: float) -> float:
    return max(value, _LEAST)

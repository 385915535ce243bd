"""Answers as JSON: what was read off a row, and tokens that were written, as OpenAI's clients read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from softprompt.modeling.answers import Answer, LabelSet, NumberAnswer, TagsAnswer, TextAnswer
from softprompt.serving.asking import Reason, Token
from softprompt.serving.tokens import bytes_of

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


def chat_logprobs(tokens: Sequence[Token], tokenizer: Any) -> dict[str, Any]:
    """Return tokens as the `logprobs` of a chat's choice.

    Args:
        tokens: those that were written.
        tokenizer: the backbone's, which knows the bytes of tokens that are part of a character.
    """

    def told(token: int, text: str, log_probability: float) -> dict[str, Any]:
        found = bytes_of(tokenizer, token, text)
        shown = None if found is None else [*found]
        return {"token": text, "logprob": _finite(log_probability), "bytes": shown}

    content = [
        {**told(token.id, token.text, token.log_probability), "top_logprobs": [told(*each) for each in token.likeliest]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[Token], told: int, tokenizer: Any, start: int = 0) -> dict[str, Any]:
    """Return tokens as the `logprobs` of a completion's choice; one that is part of a character is told by its bytes.

    Args:
        tokens: those that were written.
        told: how many of the likeliest were asked for at each.
        tokenizer: the backbone's, which knows those bytes.
        start: characters of the tokens that were told before.
    """
    return {
        "tokens": [_name(tokenizer, token.id, token.text) for token in tokens],
        "token_logprobs": [_finite(token.log_probability) for token in tokens],
        "top_logprobs": [_likeliest(token, tokenizer) for token in tokens] if told else None,
        "text_offset": list(_offsets((len(token.text) for token in tokens), start)),
    }


def _likeliest(token: Token, tokenizer: Any) -> dict[str, float]:
    """The likeliest tokens by their names, and the one that was written; of two with one name, the likelier."""
    found: dict[str, float] = {}
    for each, text, value in (*token.likeliest, token[:3]):
        found.setdefault(_name(tokenizer, each, text), _finite(value))
    return found


def _name(tokenizer: Any, token: int, text: str) -> str:
    r"""A token's text; of one that is part of a character, its bytes as OpenAI names them: `bytes:\xe7`."""
    found = bytes_of(tokenizer, token, text)
    if found is None or found == text.encode():
        return text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in found)


def _offsets(lengths: Iterable[int], start: int) -> Iterable[int]:
    for length in lengths:
        yield start
        start += length


def _finite(value: float) -> float:
    return max(value, _LEAST)

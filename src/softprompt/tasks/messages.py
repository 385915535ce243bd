"""Conversations as data: messages with roles, in one column, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from softprompt.errors import DataError

COLUMN = "messages"
"""The one column of a conversation's row."""

_ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "model": "assistant",
}  # fmt: skip


class Message(NamedTuple):
    """One turn: `role` is `system`, `user` or `assistant`."""

    role: str
    text: str


def messages_of(values: Mapping[str, str]) -> list[Message]:
    """Return the conversation that a row holds, ready to be answered.

    >>> messages_of({"messages": '[{"role":"user","content":"Hello"}]'})
    [Message(role='user', text='Hello')]

    Raises:
        DataError: no such column, no JSON, or no conversation that ends in a user's turn.
    """
    if COLUMN not in values:
        raise DataError(f"the row has no column `{COLUMN}` with a conversation; it has {', '.join(values) or 'none'}")
    try:
        found = json.loads(values[COLUMN])
    except (TypeError, ValueError) as error:
        raise DataError(f"the column `{COLUMN}` is not JSON ({error}); give a list of messages") from error
    messages = read_messages(found, "the row")
    if messages[-1].role != "user":
        raise DataError(
            "the conversation ends in an assistant's turn; end it in the user's turn that asks for an answer"
        )
    return messages


def read_messages(value: Any, where: str) -> list[Message]:
    """Return a conversation as messages: one system message at most, then user and assistant turns.

    Args:
        value: a list of objects with `role` and `content` (or `from` and `value`).
        where: its row, for the message.

    Raises:
        DataError: anything else; no user's turn; a turn without words, or of a role that is not known.
    """
    if isinstance(value, str):
        value = _parsed(value, where)
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise DataError(f"{where}: a conversation is a list of messages, each with `role` and `content`")
    messages = [_message(item, f"{where}, message {number}") for number, item in enumerate(value, 1)]
    if any(message.role == "system" for message in messages[1:]):
        raise DataError(f"{where}: a system message stands behind other turns; put it first, or take it out")
    if not any(message.role == "user" for message in messages):
        raise DataError(f"{where}: the conversation has no user turn; add one, or take the row out")
    turns = [message.role for message in messages if message.role != "system"]
    if turns[0] != "user":
        raise DataError(f"{where}: the conversation begins with an assistant's turn; begin it with a user's")
    return messages


def as_json(messages: Sequence[Message]) -> str:
    """Return messages as the text of their column: JSON, without spaces."""
    listed = [{"role": message.role, "content": message.text} for message in messages]
    return json.dumps(listed, ensure_ascii=False, separators=(",", ":"))


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{where}: the conversation is not JSON ({error}); give a list of messages") from error


def _message(item: Mapping[str, Any], where: str) -> Message:
    role = item.get("role", item.get("from"))
    if role not in _ROLES:
        raise DataError(f"{where} has the role `{role}`; a role is system, user or assistant")
    if item.get("tool_calls"):
        raise DataError(f"{where} calls tools, which are not read here; take the row out")
    text = _text(item.get("content", item.get("value")), where)
    if not text.strip():
        raise DataError(f"{where} has no words; write some, or take the row out")
    return Message(_ROLES[role], text.strip())


def _text(content: Any, where: str) -> str:
    """A message's words; parts of text are joined, a picture or the like is refused."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        words = [part for part in parts if isinstance(part, str)]
        if len(words) == len(parts):
            return "".join(words)
    if content is None or isinstance(content, str):
        return content or ""
    raise DataError(f"{where} holds something that is not text; give its words as one text")

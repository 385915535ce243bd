"""A request's words as the row that a prompt was trained on: a prompt is asked in no other form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from softprompt.backbones.backbone import Backbone
from softprompt.errors import DataError
from softprompt.modeling.bound import BoundPrompt
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.server.bare import length_of, too_long
from softprompt.server.models import Model
from softprompt.server.problems import Problem
from softprompt.server.schema import shortened
from softprompt.tasks.free_text import Text
from softprompt.tasks.messages import COLUMN, as_json, read_messages

_ROLES = ("system", "developer", "user", "assistant")
_SLACK = 1024
"""Tokens that a chat template may put around messages; more are counted exactly."""


def conversation(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return a chat's messages as the one column of a conversation's row.

    >>> conversation([{"role": "user", "content": [{"type": "text", "text": "Hello"}]}])
    '[{"role":"user","content":"Hello"}]'

    Raises:
        Problem: 400: a message with another role, with something else than text, or no conversation to answer.
    """
    if not messages:
        raise Problem(400, "`messages` is missing or empty", param="messages", code="missing_field")
    turns = [{"role": _role(each, i), "content": _words(each, i)} for i, each in enumerate(messages)]
    try:
        found = read_messages(turns, "`messages`")
    except DataError as error:
        raise Problem(400, str(error), param="messages", code="invalid_value") from error
    if found[-1].role != "user":
        message = "`messages` end in an assistant's turn; end them in the user's turn that asks for an answer"
        raise Problem(400, message, param="messages", code="invalid_value")
    return as_json(found)


def chat_row(model: Model, messages: Sequence[Mapping[str, Any]], fields: Mapping[str, str] | None) -> dict[str, str]:
    """Return the row that a chat asks a prompt with.

    A prompt that was trained on conversations takes all messages; one with a pattern takes one user's message, or
    `fields`, or both, the message then being the one field that is left.

    Raises:
        Problem: 400: the prompt was trained in another form.
    """
    if model.chats:
        if fields:
            message = f"`{model.id}` was trained on conversations and has no fields; give `messages` alone"
            raise Problem(400, message, param="fields", code="invalid_value")
        return {COLUMN: conversation(messages)}
    if not messages and fields:
        return row_of(model, None, fields)
    if len(messages) != 1 or _role(messages[0], 0) != "user":
        roles = ", ".join(_role(each, i) for i, each in enumerate(messages)) or "none"
        message = (
            f"`{model.id}` was trained on single texts and takes one user message, and no other; found {len(messages)} "
            f"({shortened(roles)})"
        )
        raise Problem(400, message, param="messages", code="invalid_value")
    return row_of(model, _words(messages[0], 0), fields)


def row_of(model: Model, text: str | None, fields: Mapping[str, str] | None, param: str = "fields") -> dict[str, str]:
    """Return the row that a text, fields or both ask a prompt with; the text is the field that is left.

    Raises:
        Problem: 400, naming the fields: one is missing or unknown, or the text could be any of several.
    """
    assert model.prompt is not None, "the base model has no fields"
    wanted, given = model.prompt.template.fields, dict(fields or {})
    unknown = next((name for name in given if name not in wanted), None)
    if unknown is not None:
        message = f"`{model.id}` has no field `{shortened(unknown)}`; it asks for {_listed(wanted)}"
        raise Problem(400, message, param=param, code="unknown_field")
    missing = [name for name in wanted if name not in given]
    if text is None and missing:
        message = f"`{model.id}` asks for the fields {_listed(wanted)}; missing: {_listed(missing)}"
        raise Problem(400, message, param=param, code="missing_field")
    if text is not None and len(missing) != 1:
        raise Problem(400, _not_one(model.id, missing, param), param=param, code="invalid_value")
    return given if text is None else {**given, missing[0]: text}


def check_room(model: Model, row: dict[str, str], backbone: Backbone, param: str) -> None:
    """Refuse a row that would be cut before a text is written behind it.

    Rows for choices are cut as they were in training, and the answer says by how much; but an answer to half of a
    conversation is none. What cannot be too long, because it has fewer bytes than there are tokens, is not counted.

    Raises:
        Problem: 400, with both lengths.
    """
    prompt = model.prompt
    if prompt is None or not isinstance(prompt.readout, Text):
        return
    limit, answer = backbone.max_positions, prompt.readout.max_new_tokens
    if limit is None or backbone.kind == "encoder-decoder" or _at_most(prompt, row) + answer <= limit:
        return
    length = length_of(BoundPrompt.of(backbone, prompt), row)
    if length + answer > limit:
        raise too_long(model.id, limit, length, answer, param)


def _at_most(prompt: SoftPrompt, row: Mapping[str, str]) -> int:
    """More tokens than a row can have: a token of text is at least a byte of it."""
    fixed = len(prompt.template.pattern.encode()) + prompt.length + _SLACK
    return fixed + sum(len(value.encode()) for value in row.values())


def _role(message: Mapping[str, Any], place: int) -> str:
    role = message.get("role")
    if role not in _ROLES:
        shown = shortened(repr(role)) if role is not None else "missing"
        found = f"`messages.{place}.role` is {shown}; it is one of {', '.join(_ROLES)}"
        raise Problem(400, found, param=f"messages.{place}.role", code="invalid_value")
    return str(role)


def _words(message: Mapping[str, Any], place: int) -> str:
    """A message's text; parts of text are joined."""
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(part["text"] if isinstance(part.get("text"), str) else "" for part in content)
    if not isinstance(content, str) or message.get("tool_calls") or message.get("audio"):
        found = f"`messages.{place}` holds something else than text; give its words in `content`"
        raise Problem(400, found, param=f"messages.{place}.content", code="invalid_value")
    return content


def _not_one(name: str, missing: Sequence[str], param: str) -> str:
    if not missing:
        return f"`fields` hold everything that `{name}` asks for, and there is a text too; leave one of them out"
    example = ", ".join(f'"{field}": "…"' for field in missing)
    way = f"give the row in `{param}` as" if param.startswith("input") else "give `fields`:"
    return f"`{name}` asks for {_listed(missing)}, which one text cannot fill; {way} {{{example}}}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)

"""Conversations, one a row, to learn the assistant's turns of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softprompt.errors import DataError, TemplateError
from softprompt.tasks.chat import ChatTemplate
from softprompt.tasks.columns import usual
from softprompt.tasks.free_text import Text
from softprompt.tasks.messages import COLUMN, as_json, read_messages
from softprompt.tasks.readers.reading import Asked, Examples, Kind, Reading, cell, no_labels, tables_of, train_table
from softprompt.tasks.readout import Readout
from softprompt.tasks.sources.table import RawData, Table
from softprompt.tasks.task import Example

_COLUMNS = ("messages", "conversations", "conversation")


def find(table: Table) -> str | None:
    """Return the column of lists of messages, None where there is none."""
    found = usual(_COLUMNS, table.columns)
    value: Any = next((row[found] for row in table.rows if row.get(found)), None) if found else None
    return found if isinstance(value, list) and value and isinstance(value[0], dict) else None


def _read(raw: RawData, asked: Asked) -> Reading:
    column = asked.label or find(train_table(raw))
    if column is None:
        there = ", ".join(f"`{c}`" for c in train_table(raw).columns)
        raise DataError(
            f"`{raw.name}` has the columns {there}, and a chat task needs `messages`: in each row a list of objects "
            "with `role` and `content`"
        )
    if asked.template is not None and not isinstance(asked.template, ChatTemplate):
        raise TemplateError("a chat task is written by the backbone's own chat template; leave the template out")
    splits = {
        split: tuple(_example(cell(row, column, table.where(i)), table.where(i)) for i, row in enumerate(table.rows))
        for split, table in tables_of(raw)
    }
    found = {_system(row) for rows in splits.values() for row in rows}
    template = asked.template or _template(found, asked.max_tokens)
    notes = ["system messages differ from row to row, so that nothing is shared in front of a row: slower"]
    return Reading(splits, template, column, notes if len(found) > 1 else [])


def _template(systems: set[str | None], max_tokens: int | None) -> ChatTemplate:
    if len(systems) > 1:
        return ChatTemplate(max_tokens=max_tokens, own_system=True)
    return ChatTemplate(max_tokens=max_tokens, system=next(iter(systems), None))


def _system(row: Example) -> str | None:
    first = read_messages(row.fields[COLUMN], "the row")[0]
    return first.text if first.role == "system" else None


def _example(value: Any, where: str) -> Example:
    """The conversation before its last answer, and that answer."""
    messages = read_messages(value, where)
    if messages[-1].role != "assistant":
        raise DataError(f"{where} ends in a user's turn, so that there is no answer to learn; add the assistant's turn")
    if messages[-2].role != "user":
        raise DataError(f"{where} ends in two assistant's turns; put a user's turn between them, or make them one")
    return Example({COLUMN: as_json(messages[:-1])}, messages[-1].text)


def shown(row: Mapping[str, Any], column: str, where: str) -> Mapping[str, Any]:
    """Return a row to be answered with its conversation in `column`, as JSON; one that is text stays.

    An answer at its end, as rows to learn from have, is the one that is asked for, and is left out.

    >>> shown({"messages": [{"role": "user", "content": "Hello"}]}, "messages", "here")
    {'messages': '[{"role":"user","content":"Hello"}]'}

    Raises:
        DataError: the list cannot be read as a conversation.
    """
    found = column if column in row else usual(_COLUMNS, row)
    if found is None or not isinstance(row[found], list):
        return row
    messages = read_messages(row[found], where)
    return {**row, column: as_json(messages[:-1] if messages[-1].role == "assistant" else messages)}


def _readout(reading: Reading, labels: tuple[str, ...], train: Examples, asked: Asked) -> Readout:
    fitted = Text.for_targets([row.label for row in train if isinstance(row.label, str)], leading_space=False)
    return fitted if asked.max_new_tokens is None else Text(asked.max_new_tokens, lead="")


CHAT = Kind("chat", _read, no_labels, _readout)
"""Conversations."""

"""Answers for more rows than fit in memory: a chunk at a time, every prompt in the same batches."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

from softprompt.errors import ConfigError, DataError
from softprompt.modeling.answers import Answer
from softprompt.modeling.ensemble import How, check_members, joined
from softprompt.modeling.sampling import Sampling
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.serving.asking import Ask
from softprompt.serving.engine import Engine
from softprompt.tasks.chat import ChatTemplate
from softprompt.tasks.kinds import as_shown
from softprompt.tasks.messages import Message, as_json

CHUNK = 256
"""Rows handed on together."""
_STREAMS = 1_000_003
"""Seeds this far apart give no row the draws of another."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A prompt that every row is put before, and where in a row it finds what its template asks for.

    Attributes:
        name: what its answers are called.
        prompt: the prompt.
        columns: the row's column for each field that varies from row to row.
        constants: the value of each field that is the same for all rows.
    """

    name: str
    prompt: SoftPrompt
    columns: Mapping[str, str]
    constants: Mapping[str, str]

    @classmethod
    def of(
        cls, name: str, prompt: SoftPrompt, *, column: str | None = None, constants: Mapping[str, str] | None = None
    ) -> Asked:
        """Find the columns of a prompt's fields: each is called like its field, unless `column` says otherwise.

        Args:
            name: what its answers are called.
            prompt: the prompt.
            column: the column of its one field that is no constant.
            constants: values by field; fields that the template does not have are ignored.

        Raises:
            ConfigError: `column` is given and the template has not exactly one field that is no constant.
        """
        given = constants or {}
        fields = prompt.template.fields
        fixed = {field: given[field] for field in fields if field in given}
        varying = [field for field in fields if field not in fixed]
        if column is None:
            return cls(name, prompt, {field: field for field in varying}, fixed)
        if len(varying) != 1:
            names = ", ".join(f"`{field}`" for field in varying) or "nothing more"
            raise ConfigError(
                f"`{name}` asks for {names}, which one text cannot fill; "
                "give rows with those columns, or name the values: --field name=value"
            )
        return cls(name, prompt, {varying[0]: column}, fixed)

    def shown(self, row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
        """Return a row of a file with its conversation, choices or list of words as the text that is asked with.

        Args:
            row: the row, its values as the file has them.
            where: the row, for messages.

        Raises:
            DataError: what stands there cannot be read so.
        """
        return as_shown(row, self.prompt.readout, self.prompt.template, self.columns, where)

    def fields(self, row: Mapping[str, str]) -> dict[str, str]:
        """Return what the template asks for, out of a row; plain text for a conversation is its first user turn.

        Raises:
            DataError: the row lacks a column.
        """
        missing = next((column for column in self.columns.values() if column not in row), None)
        if missing is not None:
            there = ", ".join(f"`{column}`" for column in row) or "nothing"
            raise DataError(
                f"`{self.name}` asks for `{missing}` in each row, and a row has {there}; add it to every row"
            )
        found = {**{field: row[column] for field, column in self.columns.items()}, **self.constants}
        if isinstance(self.prompt.template, ChatTemplate):
            return {field: _conversation(text) for field, text in found.items()}
        return found


def _conversation(text: str) -> str:
    """A conversation as JSON, which is a list of objects; any other text, `[1] says so` too, is a user's one turn."""
    try:
        found = json.loads(text) if text.lstrip().startswith("[") else None
    except (ValueError, RecursionError):
        found = None
    listed = isinstance(found, list) and bool(found) and all(isinstance(turn, dict) for turn in found)
    return text if listed else as_json([Message("user", text)])


class Answered(NamedTuple):
    """A row with the answer of each prompt, in the order in which the prompts were given, or of their ensemble."""

    row: Mapping[str, str]
    answers: tuple[Answer, ...]


def answer_stream(
    engine: Engine,
    rows: Iterable[Mapping[str, str]],
    asked: Sequence[Asked],
    *,
    chunk: int | None = None,
    ensemble: How | None = None,
    sampling: Sampling | None = None,
    max_tokens: int | None = None,
    first: int = 0,
    allow_other_weights: bool = False,
) -> Iterator[list[Answered]]:
    """Yield the rows in their order, each with every prompt's answer, a chunk at a time and in constant memory.

    Args:
        engine: answers them, in passes that all rows and prompts share.
        rows: each with the columns that `asked` names.
        asked: the prompts, at least one.
        chunk: rows handed on together, at least 1; by default 256.
        ensemble: join the prompts' answers into one, by `mean` or `vote`.
        sampling: how tokens of text are chosen, each row with draws of its own; by default the likeliest.
        max_tokens: most tokens of a text; by default, and at most, what the prompt allows.
        first: number of the first row, which its draws depend on.
        allow_other_weights: accept prompts trained on other weights of this architecture.

    Raises:
        IncompatiblePromptError: a prompt was trained on another backbone.
        ConfigError: an ensemble whose prompts do not answer the same question.
        DataError: a row lacks a column.
        TemplateError: a row leaves nothing to read an answer from.
    """
    if ensemble is not None:
        check_members([each.prompt for each in asked])
    coming: deque[Mapping[str, str]] = deque()  # rows that are asked and not yet answered by every prompt

    def asks() -> Iterator[Ask]:
        for number, row in enumerate(rows, start=first):
            fields = [each.fields(row) for each in asked]
            coming.append(row)
            chosen = Sampling() if sampling is None else replace(sampling, seed=sampling.seed * _STREAMS + number)
            for each, own in zip(asked, fields, strict=True):
                yield Ask(each.prompt, own, each.name, chosen, max_tokens, allow_other_weights=allow_other_weights)

    each_row = zip(*[engine.answers(asks())] * len(asked), strict=False)
    while part := list(islice(each_row, chunk or CHUNK)):
        given = part if ensemble is None else [(joined(answers, ensemble),) for answers in part]
        yield [Answered(coming.popleft(), answers) for answers in given]

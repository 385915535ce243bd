"""Many rows, each with its prompt, answered in their order without holding more than a few passes of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

from softprompt.errors import ConfigError, DataError, QueueFullError
from softprompt.modeling.answers import Answer
from softprompt.modeling.bound import BoundPrompt
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.serving.asking import Ask, Ticket
from softprompt.serving.catalog import Catalog
from softprompt.tasks.chat import ChatTemplate
from softprompt.tasks.messages import Message, as_json
from softprompt.tasks.template import Template

Pair = tuple[SoftPrompt | BoundPrompt | str, str | Mapping[str, str]]
"""A prompt, or its name, and a row's columns, or the one text that its template asks for."""


def answers_of(
    submit: Callable[[Ask], Ticket],
    pairs: Iterable[Pair],
    *,
    full: Callable[[], bool],
    ahead: int,
    catalog: Catalog | None = None,
) -> Iterator[Answer]:
    """Yield the answer to each pair, in order.

    Args:
        submit: takes a request in.
        pairs: read as they are needed.
        full: tells that enough requests wait.
        ahead: most requests that are taken in and not yielded yet, at least 1.
        catalog: finds prompts by name.

    Raises:
        ConfigError: a name, and there is no catalog.
        DataError: one text for a template that does not ask for one field.
        SoftPromptError: a row cannot be answered; those behind it are given up.
    """
    tickets: deque[Ticket] = deque()
    try:
        for pair in pairs:
            while tickets and (len(tickets) >= ahead or full()):
                yield tickets.popleft().result().answer
            yield from _submit(submit, _ask(pair, catalog), tickets)
        while tickets:
            yield tickets.popleft().result().answer
    finally:
        for ticket in tickets:
            ticket.cancel()


def fields_of(template: Template, row: str | Mapping[str, str], name: str = "") -> Mapping[str, str]:
    """Return the columns of a row; a text alone is the template's one field, in a conversation its first user turn.

    Raises:
        DataError: a text alone, and the template does not ask for one field.

    >>> fields_of(Template("{text} is"), "good")
    {'text': 'good'}
    """
    if not isinstance(row, str):
        return row
    if len(template.fields) != 1:
        asked = ", ".join(f"`{field}`" for field in template.fields) or "none"
        raise DataError(
            f"one text was given for {f'`{name}`' if name else 'a prompt'} whose template has the fields {asked}; give "
            "a value for each by its name"
        )
    if isinstance(template, ChatTemplate) and not row.lstrip().startswith("["):
        row = as_json([Message("user", row)])
    return {template.fields[0]: row}


def _ask(pair: Pair, catalog: Catalog | None) -> Ask:
    which, row = pair
    if isinstance(which, str):
        if catalog is None:
            raise ConfigError(f"the prompt `{which}` is asked for by name, and the engine has no catalog; give it one")
        prompt: SoftPrompt | BoundPrompt = catalog.find(which).prompt
        name = which
    else:
        prompt, name = which, ""
    template = prompt.template.template if isinstance(prompt, BoundPrompt) else prompt.template
    return Ask(prompt, fields_of(template, row, name), name)


def _submit(submit: Callable[[Ask], Ticket], ask: Ask, tickets: deque[Ticket]) -> Iterator[Answer]:
    """Take a request in; while others fill the queue, yield answers that are due, or wait."""
    while True:
        try:
            tickets.append(submit(ask))
        except QueueFullError as full:
            if tickets:
                yield tickets.popleft().result().answer
            else:
                time.sleep(min(full.retry_after, 0.1))
            continue
        return

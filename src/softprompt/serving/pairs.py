"""Many rows, each with its prompt, answered in their order without holding more than a few passes of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

from softprompt.errors import ConfigError, DataError, QueueFullError, SoftPromptError
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


def asks_of(
    pairs: Iterable[Pair], catalog: Catalog | None = None, *, allow_other_weights: bool = False
) -> Iterator[Ask]:
    """Yield what each pair asks, as they are needed.

    Args:
        pairs: a prompt and a row each.
        catalog: finds prompts by name.
        allow_other_weights: accept prompts trained on other weights of this architecture.

    Raises:
        ConfigError: a name, and there is no catalog.
        DataError: one text for a template that does not ask for one field.
    """
    for which, row in pairs:
        name = which if isinstance(which, str) else ""
        prompt = _found(which, catalog) if isinstance(which, str) else which
        template = prompt.template.template if isinstance(prompt, BoundPrompt) else prompt.template
        yield Ask(prompt, fields_of(template, row, name), name, allow_other_weights=allow_other_weights)


def answers_of(
    submit: Callable[[Ask], Ticket], asks: Iterable[Ask], *, full: Callable[[], bool], ahead: int
) -> Iterator[Answer]:
    """Yield the answers in order; what is wrong with a row is raised in its place.

    Args:
        submit: takes a request in.
        asks: read as they are needed.
        full: tells that enough of these requests wait.
        ahead: most requests that are taken in and not yielded yet, at least 1.

    Raises:
        SoftPromptError: a row cannot be answered; those before it have been, and those behind it are given up.
    """
    tickets: deque[Ticket] = deque()
    taken = _taken(submit, asks, tickets)
    try:
        while True:
            while tickets and (len(tickets) >= ahead or full()):
                yield tickets.popleft().result().answer
            try:
                there = next(taken)
            except StopIteration:
                break
            except SoftPromptError as error:
                yield from (ticket.result().answer for ticket in _popped(tickets))
                raise error from None
            if not there:
                yield tickets.popleft().result().answer
        yield from (ticket.result().answer for ticket in _popped(tickets))
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


def _found(name: str, catalog: Catalog | None) -> SoftPrompt:
    if catalog is None:
        raise ConfigError(f"the prompt `{name}` is asked for by name, and the engine has no catalog; give it one")
    return catalog.find(name).prompt


def _taken(submit: Callable[[Ask], Ticket], asks: Iterable[Ask], tickets: deque[Ticket]) -> Iterator[bool]:
    """Take requests in, one a step; a step that finds no room yields False where a ticket can be waited for."""
    for ask in asks:
        while True:
            try:
                tickets.append(submit(ask))
                break
            except QueueFullError as full:
                if not tickets:
                    time.sleep(min(full.retry_after, 0.1))
                    continue
            yield False
        yield True


def _popped(tickets: deque[Ticket]) -> Iterator[Ticket]:
    while tickets:
        yield tickets.popleft()

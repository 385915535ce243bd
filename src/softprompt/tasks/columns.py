"""Which columns hold the text and which the label: as told, or guessed from their usual names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from softprompt.errors import DataError, TemplateError
from softprompt.registry import nearest
from softprompt.tasks.sources.table import RawData, Table
from softprompt.tasks.template import Template

PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("question", "sentence"),
    ("question", "passage"),
)
TEXTS = ("text", "sentence", "review", "question", "tweet", "message", "comment", "content", "utterance", "title")
# A column of names is better than a column of numbers beside it, so those stand first.
LABELS = ("label_text", "label_name", "label", "labels", "sentiment", "category", "class", "target", "intent", "topic")


class Usual(NamedTuple):
    """The usual names of columns for one kind of task, best first."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    pairs: tuple[tuple[str, ...], ...]


CLASSIFICATION = Usual(TEXTS, LABELS, PAIRS)
INPUTS = (
    "input",
    "inputs",
    "source",
    "document",
    "article",
    "dialogue",
    "instruction",
    "prompt",
    "meaning_representation",
)
TARGETS = ("target", "output", "completion", "response", "summary", "highlights", "translation", "human_reference")
GENERATION = Usual(
    (*INPUTS, *TEXTS),
    (*TARGETS, "answer", "reference", "references", "label"),
    (("instruction", "input"), ("context", "question")),
)
NUMBERS = Usual(TEXTS, ("score", "similarity_score", "similarity", "rating", "value", *LABELS), PAIRS)


@dataclass(frozen=True)
class Columns:
    """The columns of a task.

    Args:
        texts: those that a template shows, in order.
        label: the one with the answer.
        guessed: which of `text` and `label` were guessed where there were others to choose.
    """

    texts: tuple[str, ...]
    label: str
    guessed: tuple[str, ...]


def choose(
    raw: RawData,
    text: str | Sequence[str] | None,
    label: str | None,
    template: Template | None,
    names: Usual = CLASSIFICATION,
) -> Columns:
    """Settle the columns of a task.

    Args:
        raw: the rows.
        text: the text column or columns; by default the template's fields, else guessed.
        label: the label column; by default guessed.
        template: the pattern, if the user gave one: its fields are the text columns.
        names: what columns are usually called in this kind of task.

    Raises:
        DataError: a column is missing, has braces in its name, or cannot be guessed.
        TemplateError: the template asks for a column that is not there, or shows the answer.
    """
    first = next(iter(raw.tables.values()))
    asked = (text,) if isinstance(text, str) else tuple(text) if text is not None else None
    if template is not None:
        asked = _fields_of(template, asked, first)
    if asked is not None and not asked:
        raise DataError(f"`text` names no column; name at least one of {_listed(first.columns)}")
    settled_label = label or _guess_label(first, asked, names)
    texts = asked or _guess_texts(first, settled_label, names)
    guessed = (*(["text"] if asked is None else []), *(["label"] if label is None else []))
    for table in raw.tables.values():
        for name in (*texts, settled_label):
            _require(table, name)
    _refuse_odd(texts, settled_label, template)
    return Columns(texts, settled_label, guessed if len(first.columns) > len(texts) + 1 else ())


def _fields_of(template: Template, asked: tuple[str, ...] | None, table: Table) -> tuple[str, ...]:
    for field in template.fields:
        if field not in table.columns:
            raise TemplateError(
                f"the template asks for `{{{field}}}`, and `{table.origin}` has the columns {_listed(table.columns)}"
                f"{_near(field, table.columns)}"
            )
    for name in asked or ():
        if name not in template.fields:
            shown = ", ".join(f"`{{{f}}}`" for f in template.fields)
            raise TemplateError(
                f"the text column `{name}` is not in the template, which shows {shown}; write {{{name}}} into it"
            )
    return template.fields


def _require(table: Table, name: str) -> None:
    if name not in table.columns:
        there = f"{_listed(table.columns)}{_near(name, table.columns)}"
        raise DataError(f"`{table.origin}` has no column `{name}`; its columns are {there}")


def _refuse_odd(texts: Sequence[str], label: str, template: Template | None) -> None:
    """Refuse columns that a template cannot name, and a template that gives the answer away."""
    if label in texts:
        if template is not None:
            raise TemplateError(f"the template shows the label column `{label}`, which is the answer; leave it out")
        raise DataError(f"the column `{label}` is both text and label; name another column for one of them")
    for name in texts:
        if set(name) & set("{}") or name in ("bos", "soft"):
            raise DataError(f"a template cannot show the column `{name}`; rename it: no braces, and not bos or soft")


def _guess_label(table: Table, texts: tuple[str, ...] | None, names: Usual) -> str:
    """Find the label by its usual name; or, where the text is known, as the one other column there is."""
    shown = texts or _usual_texts(table.columns, names)
    others = [c for c in table.columns if c not in shown]
    if not others:
        raise DataError(
            f"`{table.origin}` has only {_listed(table.columns)}, shown as text; no column is left for the label"
        )
    found = usual(names.labels, others)
    if found:
        return found
    if shown and len(others) == 1:
        return others[0]
    raise DataError(_cannot_tell(table, "label", names.labels))


def _guess_texts(table: Table, label: str, names: Usual) -> tuple[str, ...]:
    """Find the text by its usual name, or as the one column that is not the label."""
    others = [c for c in table.columns if c != label]
    found = _usual_texts(others, names) or (tuple(others) if len(others) == 1 else ())
    if not found:
        raise DataError(_cannot_tell(table, "text", names.texts))
    return found


def _usual_texts(columns: Sequence[str], names: Usual) -> tuple[str, ...]:
    """Return a usual pair of columns, else the column with a usual name, else none."""
    for pair in names.pairs:
        found = [c for name in pair if (c := usual([name], columns))]
        if len(found) == len(pair):
            return tuple(found)
    named = usual(names.texts, columns)
    return (named,) if named else ()


def usual(names: Sequence[str], columns: Iterable[str]) -> str | None:
    """Return the column that bears the first of `names` that any bears, letter case apart.

    >>> usual(["text", "review"], ["Review", "Stars"])
    'Review'
    """
    by_lower = {column.lower(): column for column in columns}
    return next((by_lower[name] for name in names if name in by_lower), None)


def _cannot_tell(table: Table, role: str, usual: Sequence[str]) -> str:
    return (
        f"`{table.origin}` has the columns {_listed(table.columns)}; none is {', '.join(usual[:4])} or the like; "
        f"say which is the {role} with {role}= (--{role}); the first line of a file must name the columns"
    )


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(f"`{c}`" for c in columns)


def _near(name: str, columns: Sequence[str]) -> str:
    near = nearest(name, columns)
    return f"; did you mean `{near[0]}`?" if near else ""

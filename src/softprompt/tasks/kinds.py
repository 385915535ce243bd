"""Which kind of task a source is: as told, or told from its columns where they leave no doubt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from softprompt.errors import SoftPromptError
from softprompt.registry import Registry
from softprompt.tasks.chat import ChatTemplate
from softprompt.tasks.columns import CLASSIFICATION, INPUTS, NUMBERS, TARGETS, TEXTS, choose, usual
from softprompt.tasks.free_text import Text
from softprompt.tasks.readers import choices, conversations, tagged, texts
from softprompt.tasks.readers.reading import Asked, Kind, train_table
from softprompt.tasks.readout import Readout
from softprompt.tasks.sources.table import RawData, Table
from softprompt.tasks.template import Template, slots_required

KINDS: Registry[Kind] = Registry(
    "kind of task",
    {
        "classification": "softprompt.tasks.readers.labelled:CLASSIFICATION",
        "multi-label": "softprompt.tasks.readers.labelled:MULTI_LABEL",
        "regression": "softprompt.tasks.readers.labelled:REGRESSION",
        "choice": "softprompt.tasks.readers.choices:CHOICE",
        "generation": "softprompt.tasks.readers.texts:GENERATION_KIND",
        "extraction": "softprompt.tasks.readers.texts:EXTRACTION",
        "tagging": "softprompt.tasks.readers.tagged:TAGGING",
        "chat": "softprompt.tasks.readers.conversations:CHAT",
    },
)
"""The reader of each kind of task."""

_ALWAYS_TEXT = ("completion", "response", "summary", "highlights", "references")


def settle(raw: RawData, kind: str | None, asked: Asked) -> tuple[Kind, list[str]]:
    """Return the kind of a source, with the sentence to say where it was told from the columns.

    Args:
        raw: the rows.
        kind: as the user says it; `None`: told from the columns, `classification` where they do not show another.
        asked: what else the user said.

    Raises:
        UnknownNameError: no kind has that name; the nearest are offered.
    """
    if kind is not None:
        return KINDS.get(kind), []
    table = train_table(raw)
    for name, sign in _SIGNS.items():
        found = sign(table, raw, asked)
        if found:
            return KINDS.get(name), [f'read as {name}: {found}; say kind="..." for another']
    return KINDS.get("classification"), []


def kind_of(readout: Readout, template: Template) -> str:
    """Return the kind of task that a prompt with this readout and template was trained on.

    Generation and extraction have the same readout: a template with a context and a question means extraction.
    """
    if isinstance(template, ChatTemplate):
        return "chat"
    if isinstance(readout, Text):
        return "extraction" if {"context", "question"} <= {*template.fields} else "generation"
    if readout.kind == "label-words" and choices.COLUMN in template.fields:
        return "choice"
    found = {"yes-no": "multi-label", "scalar": "regression", "token-tags": "tagging"}
    return found.get(readout.kind, "classification")


def as_shown(
    row: Mapping[str, Any], readout: Readout, template: Template, columns: Mapping[str, str], where: str
) -> Mapping[str, Any]:
    """Return a row to be answered with its conversation, choices or list of words as the text that a prompt learned.

    Args:
        row: the row, its values as the source has them.
        readout: the prompt's.
        template: the prompt's.
        columns: the row's column for each field of the template; without one a field is the same for all rows.
        where: the row, for messages.

    Raises:
        DataError: what stands there cannot be read so.
    """
    kind = kind_of(readout, template)
    field = {"choice": choices.COLUMN, "tagging": getattr(readout, "column", "")}.get(kind, template.fields[0])
    if kind not in _SHOWN or field not in columns:
        return row
    return _SHOWN[kind](row, columns[field], where)


_SHOWN: dict[str, Callable[[Mapping[str, Any], str, str], Mapping[str, Any]]] = {
    "chat": conversations.shown,
    "choice": choices.shown,
    "tagging": tagged.shown,
}
"""What writes the one field of a row that no column of text holds, by the kind of task."""


def features_of(readout: Readout, template: Template) -> frozenset[str]:
    """Return the features that a prompt file with these requires: none for label words and a pattern of plain slots.

    >>> sorted(features_of(Text(64), ChatTemplate()))
    ['chat', 'text']
    """
    written = {"chat"} if isinstance(template, ChatTemplate) else slots_required(template.pattern)
    return frozenset(written if readout.kind == "label-words" else {*written, readout.kind})


def _chat(table: Table, raw: RawData, asked: Asked) -> str | None:
    column = None if asked.template or asked.label else conversations.find(table)
    return f"the column `{column}` holds conversations" if column else None


def _tagging(table: Table, raw: RawData, asked: Asked) -> str | None:
    text = asked.text if isinstance(asked.text, str) else None
    found = tagged.find(table, text, asked.label)
    if found is None or not all(isinstance(table.rows[0].get(column), list) for column in found):
        return None
    return f"the columns `{found[0]}` and `{found[1]}` hold lists, a tag for each word"


def _extraction(table: Table, raw: RawData, asked: Asked) -> str | None:
    found = texts.extraction_columns(table)
    if found is None or asked.label or asked.text or asked.template:
        return None
    context, question, answers = found
    if isinstance(table.rows[0].get(answers), list | dict):
        return f"the columns `{context}`, `{question}` and `{answers}` are those of questions on a context"
    within = all(str(row.get(answers) or "-") in str(row.get(context)) for row in table.rows)
    return f"every `{answers}` stands in its `{context}`" if within else None


def _choice(table: Table, raw: RawData, asked: Asked) -> str | None:
    found = None if asked.template else choices.find(table, asked.text, asked.label)
    if found is None or not choices.fits(table, found):
        return None
    return f"choices in {', '.join(f'`{c}`' for c in found.choices)}, the right one in `{found.answer}`"


def _label_cells(table: Table, raw: RawData, asked: Asked) -> tuple[str, list[Any]]:
    """The label column as classification would find it, else as regression would, with its cells."""
    for names in (CLASSIFICATION, NUMBERS):
        with suppress(SoftPromptError):
            label = choose(raw, asked.text, asked.label, asked.template, names).label
            return label, [row.get(label) for row in table.rows]
    return "", []


def _multi_label(table: Table, raw: RawData, asked: Asked) -> str | None:
    label, cells = _label_cells(table, raw, asked)
    return f"the column `{label}` holds lists" if any(isinstance(cell, list) for cell in cells) else None


def _generation(table: Table, raw: RawData, asked: Asked) -> str | None:
    """Usual names of input and target, and targets that mostly differ: labels would come again."""
    target = asked.label or usual((*TARGETS, "references"), table.columns)
    if target is None or (asked.template is None and asked.text is None and not usual(_inputs(target), table.columns)):
        return None
    if target.lower() not in (*TARGETS, *_ALWAYS_TEXT) and not texts.references_column(table):
        return None
    values = [row.get(target) for row in table.rows]
    different = len({str(value) for value in values})
    if 2 * different <= len(values):
        return None
    return f"the column `{target}` holds {different:,} different texts in {len(values):,} rows"


def _inputs(target: str) -> tuple[str, ...]:
    return (*INPUTS, *TEXTS) if target.lower() in _ALWAYS_TEXT else INPUTS


def _regression(table: Table, raw: RawData, asked: Asked) -> str | None:
    """Numbers of which some have a fraction; `1.0` and `2.0` alone are labels."""
    label, cells = _label_cells(table, raw, asked)
    numbers = [_number(cell) for cell in cells if cell not in (None, "")]
    if not numbers or None in numbers or not any(n is not None and n != int(n) for n in numbers):
        return None
    return f"the column `{label}` holds numbers with fractions"


def _number(cell: Any) -> float | None:
    try:
        found = math.nan if isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


_SIGNS: dict[str, Callable[[Table, RawData, Asked], str | None]] = {
    "chat": _chat,
    "tagging": _tagging,
    "extraction": _extraction,
    "choice": _choice,
    "multi-label": _multi_label,
    "generation": _generation,
    "regression": _regression,
}
"""What shows a kind, asked in this order; each returns the reason or None."""

"""A comparison's report as Markdown: the words and the tables."""

from __future__ import annotations

import re
from collections.abc import Iterable

from softprompt.experiments.report.content import Content, Section
from softprompt.experiments.report.tables import Row, Table, overview


def markdown(content: Content, title: str) -> str:
    """Return the report as Markdown.

    Args:
        content: of the report.
        title: what stands above it.
    """
    lines = [f"# {title}", "", *(f"- {_safe(each)}" for each in content.summary), ""]
    if content.cautions:
        lines += ["**Mind:**", "", *(f"- {_safe(each)}" for each in content.cautions), ""]
    lines += ["## All tasks", "", *_table(overview(content.tasks)), ""]
    for section in content.sections:
        lines += _section(section)
    lines += ["## What it took", "", *(f"- {each}" for each in content.effort), ""]
    if content.made_with:
        lines += ["## Made with", "", *(f"- {_safe(name)}: {_safe(value)}" for name, value in content.made_with), ""]
    return "\n".join(lines).rstrip() + "\n"


def _section(section: Section) -> Iterable[str]:
    yield from (f"## {_safe(section.figures.name)}", "")
    for table in (*section.tables(), *section.row_tables()):
        yield from (f"### {_safe(table.caption)}", "", *_table(table), "")
    if section.notes:
        yield from (*(f"- {_safe(note)}" for note in section.notes), "")


def _table(table: Table) -> list[str]:
    header = [_safe(each) for each in (*table.heads, *table.columns)]
    rule = ["---"] * len(table.heads) + ["---" if table.prose else "---:"] * len(table.columns)
    rows = [header, rule, *(_cells(row, len(header)) for row in table.rows)]
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return [*lines, "", _safe(table.note)] if table.note else lines


def _cells(row: Row, width: int) -> list[str]:
    cells = [*row.head, *(row.cells or (row.why,))]
    cells = [_safe(cell) for cell in cells] + [""] * (width - len(cells))
    return [f"**{cell}**" if row.ours and cell and place == 0 else cell for place, cell in enumerate(cells)]


def _safe(text: str) -> str:
    r"""Keep what a text holds from being read as Markdown or HTML.

    >>> _safe("a|b <i> *c*")
    'a\\|b &lt;i> \\*c\\*'
    """
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", text)

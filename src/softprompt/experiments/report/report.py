"""The report of a comparison: from a folder of outcomes to a page, Markdown and JSON, the same bytes every time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from softprompt import durable
from softprompt.experiments.compare.outcomes import CompareCell
from softprompt.experiments.report.content import content_of
from softprompt.experiments.report.figures import RESAMPLES
from softprompt.experiments.report.folder import read_folder
from softprompt.experiments.report.markdown import markdown
from softprompt.experiments.report.page import page, require_page

TITLE = "Soft prompts beside everything else"


@dataclass(frozen=True)
class ReportPaths:
    """Where a report is.

    Attributes:
        summary: its sentences, losses first.
        markdown, json: files.
        html: the page; None: it was not asked for.
    """

    summary: tuple[str, ...]
    markdown: Path
    json: Path
    html: Path | None


def write_report(
    folder: Path,
    out: Path | None = None,
    *,
    html: bool = True,
    planned: Iterable[CompareCell] | None = None,
    title: str = TITLE,
    resamples: int = RESAMPLES,
) -> ReportPaths:
    """Write `report.html`, `report.md` and `report.json` of a comparison.

    Args:
        folder: with one folder a task, and in it one `Outcome` file a cell; `<task>/rows.jsonl`, where there is one,
            holds the fields of each test row (`{"fields": {...}}` a line), of which some are shown.
        out: the folder to write to; None: `folder`.
        html: write the page too.
        planned: all cells of the comparison, so that those without a file are shown as missing.
        title: what stands above it.
        resamples: of the bootstrap.

    Raises:
        MissingExtraError: the page needs jinja2 and matplotlib; Markdown and JSON need neither.
        DataError: there is no outcome, or cells of one task did not answer the same rows.
        StorageError: a file is damaged, or cannot be written.
    """
    if html:
        require_page()
    content, out = content_of(read_folder(folder, planned), resamples=resamples), out or folder
    told = json.dumps(content.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    made = ReportPaths(content.summary, out / "report.md", out / "report.json", out / "report.html" if html else None)
    durable.write_text(made.json, told + "\n")
    durable.write_text(made.markdown, markdown(content, title))
    if made.html is not None:
        durable.write_text(made.html, page(content, title))
    return made

"""A comparison's report as one HTML file: no script, no link outside, light and dark, on screen and on paper."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec

from softprompt.errors import MissingExtraError
from softprompt.experiments.report.content import Content
from softprompt.experiments.report.pictures import pictures
from softprompt.experiments.report.tables import overview

TEMPLATE = "page.html.jinja"


def require_page() -> None:
    """Refuse early what could write no page.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"a report as HTML needs {' and '.join(missing)}, which is not installed: "
            'pip install "softprompt[report]", or have it as Markdown and JSON, which need neither'
        )


def page(content: Content, title: str) -> str:
    """Return the report as HTML.

    Args:
        content: of the report.
        title: what stands above it.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    require_page()
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__name__.rpartition(".")[0]).joinpath(TEMPLATE).read_text("utf-8"))
    drawn = [
        [(picture, Markup(picture.svg)) for picture in pictures(number, section.figures, section.found)]  # noqa: S704
        for number, section in enumerate(content.sections, start=1)
    ]
    sections = list(zip(content.sections, drawn, strict=True))
    return template.render(title=title, content=content, sections=sections, overview=overview(content.tasks)) + "\n"

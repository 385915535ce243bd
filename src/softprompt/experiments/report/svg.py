"""Pictures inside a page: SVG that takes its colours from the page, in light and in dark, and says what it shows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from xml.sax.saxutils import escape

INK, GRID, PAPER = "#010203", "#010204", "#010205"
"""What a picture is drawn with; `placed` turns them into colours of the page, as those of the families."""
FAMILIES = {
    "free": "#010301",
    "probe": "#010302",
    "prompt": "#010303",
    "adapter": "#010304",
    "weights": "#010305",
    "other": "#010306",
}
_COLOURS: Mapping[str, str] = {
    INK: "currentColor",
    GRID: "var(--line, #d0d0d0)",
    PAPER: "var(--paper, #fff)",
    **{colour: f"var(--{family}, {light})" for (family, colour), light in zip(
        FAMILIES.items(), ("#666666", "#a65300", "#0b62b0", "#00735a", "#a02c74", "#55559a"), strict=True
    )},
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A picture of a report.

    Attributes:
        name: of the picture, one in the whole page.
        title: what stands above it.
        alt: what it shows, in words.
        svg: an `<svg>` element.
        note: what a reader must know beside it.
    """

    name: str
    title: str
    alt: str
    svg: str
    note: str = ""


def placed(drawn: str, name: str, title: str, alt: str) -> str:
    """Make an SVG file an element of a page: colours of the page, names of its own, and words for who cannot see it.

    Args:
        drawn: the file as matplotlib writes it.
        name: of the picture, one in the whole page.
        title: what it is.
        alt: what it shows.
    """
    svg = drawn[drawn.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    svg = _own_names(svg, name)
    for colour, of_page in _COLOURS.items():
        svg = svg.replace(colour, of_page)
    words = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-alt">{escape(alt)}</desc>'
    found = re.search(r'viewBox="0 0 ([\d.]+) ', svg)
    widest = f' style="max-width: {float(found[1]) * 1.45:.0f}pt"' if found else ""
    opening = f'<svg class="picture"{widest} role="img" aria-labelledby="{name}-title {name}-alt"'
    svg = re.sub(r'\s(?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = svg.replace("<svg", opening, 1)
    end = svg.index(">") + 1
    return re.sub(r"\n\s*\n", "\n", svg[:end] + words + svg[end:]).strip()


def _own_names(svg: str, name: str) -> str:
    """Drop the names that nothing uses, and put the picture's before the others: a page holds several pictures."""
    used = set(re.findall(r'(?:url\(#|href="#)([\w.-]+)', svg))

    def kept(found: re.Match[str]) -> str:
        return f' id="{name}-{found[1]}"' if found[1] in used else ""

    svg = re.sub(r'\sid="([^"]*)"', kept, svg)
    return re.sub(r'(url\(#|href="#)([\w.-]+)', rf"\g<1>{name}-\g<2>", svg)

"""Pictures of a comparison: names that cover nothing, colours of the page, the same bytes every time."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.experiments.report.plot_labels import Box, beside_points, spread

pytest.importorskip("matplotlib", reason="pictures need the `report` extra")

from softprompt.experiments.report.plots import (
    Mark,
    Trace,
    confusion_picture,
    cost_picture,
    curve_picture,
)

FRAME = Box(0, 0, 400, 250)
TICKS = [10.0**power for power in range(10)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(20, 380), st.integers(20, 230)), min_size=1, max_size=20))
def test_no_name_covers_a_point_or_another_name(points):
    found = beside_points(points, [40.0] * len(points), FRAME, 9.0)
    boxes = [Box(place.x, place.y - 4.5, place.x + 40, place.y + 4.5) for place in found if place]
    assert found[0] is not None
    for place, box in enumerate(boxes):
        assert min(box) >= 0
        assert (box.right <= 400, box.top <= 250) == (True, True)
        assert not any(box.meets(other) for other in boxes[:place])


@given(st.lists(st.floats(0, 100), min_size=1, max_size=9))
def test_heights_are_apart_in_order_and_within_bounds(heights):
    found = spread(heights, 10.0, 0.0, 100.0)
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    moved = [found[place] for place in order]
    assert all(b - a >= 10 - 1e-6 for a, b in pairwise(moved))
    assert min(moved) >= -1e-6
    assert max(moved) <= 100 + 1e-6


def marks():
    return [
        Mark("soft prompt", "prompt", True, 50_000, 90.0, 88.0, 92.0),
        Mark("LoRA", "adapter", False, 1_500_000, 91.0, 89.0, 93.0),
        Mark("majority", "free", False, 0, 50.0, 47.0, 53.0),
        Mark("zero-shot", "free", False, 0, 70.0, 67.0, 73.0),
    ]


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("}text")]


def test_a_picture_of_costs_names_its_methods_and_says_what_is_below_it():
    drawn = cost_picture("bytes", "Accuracy", "bytes", marks(), lambda cost: f"{cost:.0f} B", TICKS)
    shown = texts(drawn.svg)
    assert {"soft prompt", "LoRA", "zero-shot", "none", "1000000 B", "adapter", "accuracy in %"} <= set(shown)
    assert "majority" not in shown
    assert drawn.note == "Bars: 95 % over rows. Below the picture: majority (50.0 %)."
    assert "LoRA: 91.0 % at 1500000 B" in drawn.alt


def test_a_picture_takes_its_colours_from_the_page_and_says_what_it_shows():
    drawn = cost_picture("bytes", "A & B", "bytes", marks(), str, TICKS)
    assert drawn.svg.startswith('<svg class="picture"')
    assert set(re.findall(r"#0[01]0\w{3}\b", drawn.svg)) == set()
    assert {"currentColor", "var(--prompt, #0b62b0)", "var(--line, #d0d0d0)"} <= set(
        re.findall(r"currentColor|var\([^)]*\)", drawn.svg)
    )
    assert '<title id="bytes-title">A &amp; B</title><desc id="bytes-alt">soft prompt: 90.0 %' in drawn.svg
    assert 'role="img" aria-labelledby="bytes-title bytes-alt"' in drawn.svg


def test_names_inside_a_picture_are_its_own_and_found():
    svg = cost_picture("bytes", "A", "bytes", marks(), str, TICKS).svg
    named = re.findall(r'\sid="([^"]*)"', svg)
    used = re.findall(r'(?:url\(#|href="#)([^")]+)', svg)
    assert len(named) == len(set(named))
    assert all(name.startswith("bytes-") for name in named)
    assert used
    assert set(used) <= set(named)


def test_the_same_picture_has_the_same_bytes():
    once, again = (cost_picture("bytes", "A", "bytes", marks(), str, TICKS).svg for _ in range(2))
    assert once == again


def test_curves_have_their_names_at_their_ends():
    traces = [
        Trace("soft prompt", "prompt", True, [16, 64], [50.0, 80.0], [(45, 55), (75, 85)]),
        Trace("deep prompt", "prompt", False, [16, 64], [52.0, 80.0]),
    ]
    drawn = curve_picture("data", "By rows", "rows", "accuracy in %", traces, lambda rows: f"{rows:.0f}")
    assert {"soft prompt", "deep prompt", "16", "64"} <= set(texts(drawn.svg))
    assert drawn.note == "Band: 95 % over rows, of soft prompt."
    assert drawn.alt.endswith("soft prompt: 50 to 80; deep prompt: 52 to 80.")


def test_one_look_is_drawn_too():
    traces = [Trace("a", "prompt", True, [10], [50.0])]
    assert "a" in texts(curve_picture("x", "x", "rows", "accuracy", traces, str).svg)


def test_confusion_says_what_is_taken_for_what():
    tables = [("soft prompt", "prompt", [[5, 2], [0, 3]]), ("LoRA", "adapter", [[7, 0], [0, 3]])]
    drawn = confusion_picture("c", "Confusion", ["a_label_that_is_far_too_long", "b"], tables)
    assert drawn.alt == (
        "Confusion. soft prompt: 8 of 10 rows right, most often wrong with a_label_that_is_far_too_long taken for b (2)"
        "; LoRA: 10 of 10 rows right."
    )
    shown = texts(drawn.svg)
    assert {"soft prompt", "LoRA", "a_label_…_too_long", "b", "5", "2", "3", "7"} <= set(shown)
    assert "0" not in shown

"""Colours, shapes and dashes: by name, distinct on every page."""

from __future__ import annotations

import pytest

from softmap.report.marks import COLOURS, PLAIN, SHIPPED, hue, marks
from softmap.report.theme import HUES
from softmap.variants import names

DEMO = ["transformer++", *SHIPPED[:COLOURS]]


def look(mark):
    return mark.hue, mark.shape, tuple(mark.dash)


def test_a_name_has_one_hue_whatever_else_is_on_the_page():
    page = dict(zip(DEMO, marks(DEMO), strict=True))
    for others in (["dcmha"], ["mine", "dcmha", "diff"], DEMO[::-1]):
        for name, mark in zip(others, marks(others), strict=True):
            assert mark.hue == hue(name)
            assert name not in page or mark.hue == page[name].hue
    assert hue("dcmha") == hue("dcmha(qk_norm=true)") == hue("dcmha(rank=4,static=true)")
    assert hue("diff+dcmha(rank=2)") == hue("diff+dcmha")
    assert hue("transformer++") == hue("transformer++(qk_norm=true)") == 0 != hue("mine")


def test_the_demo_has_a_colour_for_each():
    assert len({mark.hue for mark in marks(DEMO)}) == len(DEMO) == len(HUES["light"])
    assert {mark.dasharray for mark in marks(DEMO)} == {"none"}
    assert len({mark.shape for mark in marks(DEMO)}) == len(DEMO)


def test_everything_that_ships_has_a_colour():
    """Those that are not in the list, too: a new variant needs no entry."""
    assert all(1 <= hue(name) <= COLOURS for name in names() if name not in PLAIN)


@pytest.mark.parametrize("runs", [2, 4])
def test_no_two_look_alike(runs):
    page = marks([*DEMO, "dcmha(qk_norm=true)"] * runs)
    assert len({look(mark) for mark in page}) == len(page)
    assert all(mark.path for mark in page)

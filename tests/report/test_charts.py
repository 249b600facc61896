"""Charts hold what they draw, and show a band where it can be read."""

from __future__ import annotations

import json
import re

import fake
import pytest
import vl_convert

from softmap.report import compare
from softmap.report.charts import charts
from softmap.report.load import load
from softmap.report.page import VEGA_LITE
from softmap.report.style import ticks


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """By number of variants, the charts of a run with an unsteady start."""
    made = {}
    for variants in (3, 6):
        folder = tmp_path_factory.mktemp("run")
        run = load(fake.make(folder, variants=variants, seeds=2, windows=40, context=32))
        made[variants] = {c.key: c for c in charts(run, compare.evidence(run)[0])}
    return made


@pytest.mark.parametrize("key", ["loss_tokens", "loss_seconds", "loss_flops", "pareto", "runs"])
def test_all_that_is_drawn_lies_within_the_axes(drawn, key):
    seen = 0
    spec = drawn[6][key].spec
    for layer in spec["layer"]:
        for axis in ("x", "y"):
            channel = layer.get("encoding", {}).get(axis, {})
            if "domain" not in channel.get("scale", {}):
                continue
            low, high = channel["scale"]["domain"]  # fixed: of a chart of one variant, too
            for row in layer.get("data", spec.get("data"))["values"]:
                assert low <= row[channel["field"]] <= high
                seen += 1
    assert seen > 10
    assert '"clip"' not in json.dumps(spec)


def bands(spec, focus=None):
    """Opacities of the bands as they are rendered."""
    chosen = [p | {"value": focus} if p["name"] == "focus" else p for p in spec["params"]]
    svg = vl_convert.vegalite_to_svg(spec | {"params": chosen, "width": 400}, VEGA_LITE)
    groups = re.findall(r'<g class="mark-area.*?</g>', svg, re.S)
    return [float(o) for g in groups for o in re.findall(r'<path[^>]* opacity="([\d.]+)"', g)]


@pytest.mark.parametrize("key", ["trend", "position_difference"])
def test_many_bands_are_seen_one_at_a_time(drawn, key):
    few, many = (drawn[n][key].spec for n in (3, 6))
    assert len(bands(few)) == 2 and all(bands(few))
    assert len(bands(many)) == 5 and not any(bands(many))
    assert sum(map(bool, bands(many, focus="dcmha"))) == 1
    assert sum(map(bool, bands(few, focus="diff"))) == 1


def test_every_run_is_a_dot_beside_the_mean(drawn):
    means, runs = (layer["data"]["values"] for layer in drawn[3]["runs"].spec["layer"])
    assert len(means) == 3 and len(runs) == 6
    for row in means:
        mine = [run["loss"] for run in runs if run["variant"] == row["variant"]]
        assert sum(mine) / 2 == pytest.approx(row["loss"], abs=1e-4)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((90, 2100), [100, 200, 500, 1000, 2000]),
        ((0.19, 0.62), [0.2, 0.3, 0.4, 0.5, 0.6]),
        ((1.05, 1.35), [1.1, 1.2, 1.3]),
        ((1.01, 1.02), [1.01, 1.02]),
    ],
)
def test_ticks_are_round_and_never_none(ends, expected):
    assert ticks(*ends) == pytest.approx(expected)

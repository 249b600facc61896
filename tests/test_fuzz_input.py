"""Recipes, names and flags at random: they are taken, or refused with the promised error."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from softmap.cli import _seeds
from softmap.errors import SoftmapError
from softmap.lab import recipe as recipes
from softmap.lab.names import check_name, check_path, split_variants
from softmap.lab.plan import make_plan
from softmap.nn import Backbone
from softmap.variants import load, names

pytestmark = pytest.mark.slow
EXAMPLES = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
KEYS = [
    "name", "control", "seeds", "peaks", "variants", "data.data", "data.heldout", "data.tokenizer",
    "model.hidden_size", "model.num_attention_heads", "model.context", "model.backbone.window",
    "model.backbone", "training.steps", "training.budgets", "training.betas", "training.clip",
    "training.schedule", "training.decay_fraction", "training.micro_batch_size", "tuning.grid",
    "evaluation.windows", "training", "model.backbone.pattern", "variants.x", ".", "a.b.c",
]  # fmt: skip
ODD = [".nan", ".inf", "1e400", "0x10", "1:30", "010", "null", "yes", "-1", "0", "1", "1e18",
       "[]", "{}", "[1, 2]", "{a: 1}", "&a [*a]", "!!int x", "2024-13-45", "'", "[", "diff",
       "++"]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(ODD), st.floats().map(repr), st.integers().map(str), st.text(max_size=30)
)
PIECES = st.sampled_from(
    [*names(), *"+(=),:[]{}-/'", "++", "hidden", "rank", "nan", "1e9", "true", "None", ".py", ".."]
)
LINES = st.lists(st.sampled_from([*KEYS, *ODD, ": ", "\n", "  ", "- "]), max_size=30)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9))


def inside(x: Any) -> Any:
    keys = st.sampled_from([*names(), "rank", "x"])
    return st.lists(x, max_size=3) | st.dictionaries(keys, x, max_size=3)


def only_promised(call: Any, *arguments: Any) -> None:
    """Runs ``call``; it may fail with a ``SoftmapError`` of one printable line alone."""
    try:
        call(*arguments)
    except SoftmapError as error:
        assert str(error).isprintable() and 0 < len(str(error)) <= 1000


def parts(spec: Any) -> None:
    Backbone.of(load(spec).parts.backbone)


@EXAMPLES
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
def test_settings(overrides: dict[str, str]) -> None:
    def run() -> None:
        recipe = recipes.load("demo", overrides)
        if recipe.model.hidden_size <= 1024:
            make_plan(recipe, 300)

    only_promised(run)


@EXAMPLES
@given(st.text(max_size=200) | LINES.map("".join))
def test_files(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        only_promised(recipes.load, path)


@EXAMPLES
@given(st.text(max_size=60) | st.lists(PIECES, max_size=14).map("".join))
def test_names_of_variants(spec: str) -> None:
    only_promised(parts, spec)
    split_variants([spec])


@EXAMPLES
@given(st.recursive(LEAVES, inside))
def test_specs(spec: Any) -> None:
    only_promised(parts, spec)


@EXAMPLES
@given(st.text(max_size=300), st.lists(st.integers(), max_size=3))
def test_names_of_runs_and_seeds(name: str, seeds: list[int]) -> None:
    only_promised(check_name, "name", name)
    only_promised(check_path, "out", Path(name))
    only_promised(_seeds, [str(seed) for seed in seeds], [])
    only_promised(_seeds, [], [str(seed) for seed in seeds])

"""Recipes: read strictly, complaints name file, line and key, and YAML goes round."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from softmap.errors import SoftmapError
from softmap.lab import recipe as recipes
from softmap.lab.recipe import Entry


def read(folder: Path, text: str, **overrides: str) -> recipes.Recipe:
    path = folder / "r.yaml"
    path.write_text(text)
    return recipes.load(path, overrides)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("name: a\ntrainig: 3", 2, "unknown key 'trainig' (did you mean 'training'"),
        ("training:\n  steps: 9\n  stepps: 3", 3, "unknown key 'training.stepps'"),
        ("training:\n  steps: many", 2, "training.steps: expected a whole number, found 'many'"),
        ("training:\n  steps: 1.5", 2, "expected a whole number, found '1.5'"),
        ("training:\n  compile: 1", 2, "expected true or false, found '1'"),
        ("name: a\nname: b", 2, "key 'name' again (first on line 1)"),
        ("name: 7", 1, "name: expected text, found '7'"),
        ("name: '../x'", 1, "expected the name of a folder"),
        ("variants: [diff\n", 2, "not valid YAML"),
        ("variants: []", 1, "variants: expected at least one"),
        ("name: a\nvariants: diff", 2, "variants: expected a list, found 'diff'"),
        ("variants:\n- {label: x}", 2, "missing key 'variants[0].variant'"),
        ("variants:\n- diff\n- {variant: a+b, rank: 2}", 3, "go with a single edit"),
        ("variants:\n- [{diff: {}, dape: {}}]", 2, "expected one edit, found diff, dape"),
        ("training:\n  budgets: [1, 0.5]", 2, "expected rising shares"),
        ("training:\n  warmup: 0.5", 2, "training.warmup: expected a share"),
        ("training:\n  precision: fp8", 2, "expected one of auto, fp32, bf16, found 'fp8'"),
        ("training:\n  steps: 2", 2, "too few for this schedule"),
        (
            "training:\n  steps: 0",
            2,
            "training.steps: expected a whole number from 1 to 1,000,000,000, found 0",
        ),
        ("seeds: [1, 1]", 1, "seeds: expected 1 to 1000 different numbers"),
        ("seeds: [1000]", 1, "tuning.seed: 1000 is one of the run's own"),
        (
            "evaluation: {passage_tokens: 65}",
            1,
            "evaluation.passage_tokens: expected a whole number from 1 to 64, found 65",
        ),
        ("tuning: {grid: [2, 1]}", 1, "tuning.grid: expected rising peaks"),
        ("peaks: [1]", 1, "peaks: expected a mapping or text or nothing, found a list"),
        ("path: x", 1, "unknown key 'path'"),
        ("- a", 1, "the recipe: expected a mapping, found a list"),
        ("? [a]\n: 3", 1, "expected a plain key"),
    ],
)
def test_faults_name_their_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    with pytest.raises(SoftmapError) as error:
        read(tmp_path, text)
    assert f"r.yaml:{line}: " in str(error.value)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_or_binary_file_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(SoftmapError, match="found an empty file"):
        read(tmp_path, "# nothing\n")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SoftmapError, match="not a text file"):
        recipes.load(tmp_path / "b.yaml")


def test_every_form_of_a_variant(tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        "variants:\n"
        "- diff\n"
        "- diff+dcmha(rank=4)\n"
        "- [diff, {dcmha: {rank: 4}}, sas]\n"
        "- {variant: dape, bias: fire, kernel: 5, label: wide, peak_lr: 3e-3}\n"
        "- {variant: [diff, dape], label: both}\n",
    )
    assert recipe.variants == [
        Entry("diff"),
        Entry("diff+dcmha(rank=4)"),
        Entry("diff+dcmha(rank=4)+sas"),
        Entry("dape(bias=fire, kernel=5)", "wide", 0.003),
        Entry("diff+dape", "both"),
    ]
    assert recipe.variants[3].where.endswith("r.yaml:5")


def test_numbers_without_a_point_are_numbers(tmp_path: Path) -> None:
    recipe = read(tmp_path, "training: {peak_lr: 3e-3, clip: 1}\npeaks: {diff: 1e-2}")
    assert recipe.training.peak_lr == 0.003
    assert recipe.training.clip == 1.0 and isinstance(recipe.training.clip, float)
    assert recipe.peaks == {"diff": 0.01}


def test_the_resolved_recipe_reads_back_the_same(tmp_path: Path) -> None:
    text = "name: a\nseeds: [3, 4]\nvariants: [diff, {variant: sas, peak_lr: 1e-3}]\npeaks: {a: 1}"
    recipe = read(tmp_path, text)
    written = recipes.dump(recipe)
    assert read(tmp_path, written) == recipe
    assert yaml.safe_load(written)["training"]["steps"] == recipe.training.steps


def test_overrides_replace_add_and_complain_by_name(tmp_path: Path) -> None:
    text = "training: {steps: 100, batch_size: 4}"
    given = {"training.steps": "200", "model.backbone.norm_eps": "1e-5", "seeds": "[7]"}
    recipe = read(tmp_path, text, **given)
    assert (recipe.training.steps, recipe.training.batch_size, recipe.seeds) == (200, 4, [7])
    assert recipe.model.backbone == {"norm_eps": 1e-5}
    with pytest.raises(SoftmapError, match=r"^--set training.stepz=3: unknown key"):
        read(tmp_path, text, **{"training.stepz": "3"})
    with pytest.raises(SoftmapError, match="'steps' is not a mapping"):
        read(tmp_path, text, **{"training.steps.x": "3"})


def test_budgets_and_warmup_scale_with_the_steps(tmp_path: Path) -> None:
    recipe = read(tmp_path, "training: {steps: 80}", **{"training.steps": "400"})
    assert recipe.training.budget_steps() == [100, 200, 400]


def test_other_variants_keep_the_control_and_known_entries(tmp_path: Path) -> None:
    text = "variants: [diff, {variant: dape, label: wide, peak_lr: 1.0}]\ncontrol: diff"
    chosen = recipes.with_variants(read(tmp_path, text), ["sas", "wide"])
    assert chosen.variants == [Entry("diff"), Entry("sas"), Entry("dape", "wide", 1.0)]
    first = recipes.with_variants(read(tmp_path, "variants: [diff, sas]"), ["dape", "diff"])
    assert [entry.variant for entry in first.variants] == ["dape", "diff"]
    assert first.control == "diff"


@pytest.mark.parametrize("name", ["demo", "evening", "schedules", "sizes"])
def test_shipped_recipes_load_by_name_and_from_the_repository(name: str) -> None:
    root = Path(__file__).parents[2] / "recipes" / f"{name}.yaml"
    assert recipes.load(name) == recipes.load(root)
    assert recipes.load(name).name == name


def test_a_missing_recipe_offers_the_nearest() -> None:
    with pytest.raises(SoftmapError, match="did you mean 'demo'"):
        recipes.load("recipes/dem.yaml")

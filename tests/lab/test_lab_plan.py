"""Before training: sizes are equal, peaks come from the right place, faults name the line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import lab_tiny
import pytest
import torch

from softmap.errors import SoftmapError
from softmap.lab import plan as plans
from softmap.lab import recipe as recipes
from softmap.lab.peaks import Peaks, tuned_for
from softmap.lab.preflight import with_precision
from softmap.lab.recipe import Entry, Recipe


def with_entries(recipe: Recipe, *entries: Entry | str, **changes: object) -> Recipe:
    made = [entry if isinstance(entry, Entry) else Entry(entry) for entry in entries]
    return dataclasses.replace(recipe, variants=made, **changes)  # type: ignore[arg-type]


def test_every_variant_has_the_controls_size_within_one_percent(tiny: Recipe) -> None:
    names = ["transformer++", "diff", "diff2", "dcmha", "dape", "sas", "sas-p", "gated"]
    plan = plans.make_plan(with_entries(tiny, *names), 257)
    assert plan.target == plan.models[0].parameters["total"]
    for planned in plan.models:
        assert abs(planned.parameters["total"] / plan.target - 1) < 0.01
        built = planned.costs(32)
        assert built["parameters"] == planned.parameters["total"]
    widths = {c.label: c.config.intermediate_size for c in plan.models}
    assert widths["dcmha"] < widths["transformer++"] < widths["sas"]


def test_a_size_that_no_width_gives_is_refused(tiny: Recipe) -> None:
    model = dataclasses.replace(tiny.model, intermediate_size=1)
    with pytest.raises(SoftmapError, match="within 1 %"):
        plans.make_plan(with_entries(tiny, "transformer++", "dcmha", model=model), 257)


def test_peaks_own_then_tuned_then_the_papers_then_the_recipes(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = plans.load
    monkeypatch.setattr(
        plans,
        "load",
        lambda spec: dataclasses.replace(
            found(spec), peak_lr_hint=0.5 if spec.startswith("sas") else None
        ),
    )
    peaks = {name: {"peak_lr": 0.25} for name in ("diff", "dcmha(rank=4)")}
    written = {"peaks": peaks, "tuned_for": tuned_for(tiny)}
    (tmp_path / "peaks.json").write_text(json.dumps(written))
    recipe = with_entries(
        tiny,
        Entry("diff", "own", 0.125), "diff", Entry("dcmha( rank = 4 )"), "sas", "gated",
        peaks="peaks.json",
    )  # fmt: skip
    made = plans.make_plan(recipe, 257).models
    assert [(c.peak_lr, c.peak_source) for c in made] == [
        (0.125, "recipe"), (0.25, "tuned"), (0.25, "tuned"), (0.5, "hint"), (0.003, "recipe"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("variant", "says"),
    [
        ("dif", "unknown variant 'dif' (did you mean 'diff'"),
        ("dcmha(ranks=2)", "has no option 'ranks' (did you mean 'rank'"),
        ("transformer+kerple", "cannot be combined"),
    ],
)
def test_a_variant_that_cannot_be_names_its_line(tmp_path: Path, variant: str, says: str) -> None:
    path = lab_tiny.write_recipe(tmp_path)
    path.write_text(path.read_text().replace("[transformer++, diff]", f"\n- diff\n- {variant}"))
    with pytest.raises(SoftmapError) as error:
        plans.make_plan(recipes.load(path), 257)
    assert "tiny.yaml:13: " in str(error.value) and says in str(error.value)


def test_heads_that_do_not_divide(tiny: Recipe) -> None:
    model = dataclasses.replace(tiny.model, num_attention_heads=3)
    with pytest.raises(SoftmapError, match="multiple of num_attention_heads, found 32 and 3"):
        plans.make_plan(dataclasses.replace(tiny, model=model), 257)


def test_labels_and_controls(tiny: Recipe) -> None:
    with pytest.raises(SoftmapError, match="two variants have the label 'diff'"):
        plans.make_plan(with_entries(tiny, "diff", "diff"), 257)
    with pytest.raises(SoftmapError, match=r"two variants have the folder name 'a-b'"):
        plans.make_plan(with_entries(tiny, Entry("diff", "a+b"), Entry("sas", "a/b")), 257)
    with pytest.raises(SoftmapError, match="control 'dif' is not among the variants"):
        plans.make_plan(with_entries(tiny, "diff", "sas", control="dif"), 257)
    by_spec = with_entries(tiny, "sas", Entry("diff", "mine"), control="diff")
    assert plans.make_plan(by_spec, 257).control == "mine"


def test_folder_names() -> None:
    assert plans.slug("diff+dcmha(rank=4)") == "diff-dcmha-rank-4"
    assert plans.slug("transformer++") != plans.slug("transformer")
    assert plans.slug("../..") == "variant"


@pytest.mark.parametrize(
    ("units", "precision"),
    [
        ({}, "fp32"),
        ({"avx2": True}, "fp32"),
        ({"avx512_bf16": True}, "bf16"),
        ({"bf16": 1}, "bf16"),
    ],
)
def test_the_precision_follows_the_device(
    tiny: Recipe, monkeypatch: pytest.MonkeyPatch, units: dict[str, bool], precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    training = dataclasses.replace(tiny.training, precision="auto", device="cpu")
    recipe = dataclasses.replace(tiny, training=training)
    assert with_precision(recipe).training.precision == precision
    assert with_precision(tiny).training.precision == "fp32"  # as it says itself


ARMS = """
variants:
  - {variant: transformer++, label: chain}
  - {variant: transformer++, label: branches, training: {schedule: wsd, decay_fraction: 0.2}}
  - {variant: transformer++, label: again, training: {schedule: cosine-oracle}, peak_lr: 2e-3}
"""


def arms(tmp_path: Path, text: str = ARMS) -> Recipe:
    path = lab_tiny.write_recipe(tmp_path)
    path.write_text(path.read_text().replace("variants: [transformer++, diff]\n", text))
    return recipes.load(path)


def test_a_schedule_of_its_own_is_a_line_like_a_variant(tmp_path: Path) -> None:
    recipe = arms(tmp_path)
    plan = plans.make_plan(recipe, 257)
    chain, branches, again = plan.models
    assert chain.key == "transformer++"
    assert branches.key == "transformer++ (schedule=wsd, decay_fraction=0.2)"
    given = plans.training_options(recipe, 1e-3, 0, "it", branches.own)
    assert (given.schedule, given.decay_fraction, given.budgets) == ("wsd", 0.2, (3, 6, 12))
    assert plans.training_options(recipe, 1e-3, 0, "it", chain.own).schedule == "wsd-s"
    assert again.peak_lr == 2e-3
    tuned = Peaks({"transformer++": 5e-3, branches.key: 7e-3}, "tuned")
    assert [c.peak_lr for c in plans.make_plan(recipe, 257, tuned).models] == [5e-3, 7e-3, 2e-3]
    assert recipes.parse(recipes.dump(recipe), tmp_path / "x.yaml").variants == recipe.variants


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ("{schedule: wsds}", "did you mean 'wsd-s'"),
        ("{schedule: cosine}", r"tiny.yaml:\d+: training: budgets: expected \[1\], as a cosine"),
        ("{steps: 3}", "steps"),
        ("{decay_fraction: 2}", r"training.decay_fraction: expected a number above 0 below 1"),
    ],
)
def test_a_schedule_that_does_not_fit_names_its_line(tmp_path: Path, own: str, said: str) -> None:
    text = ARMS.replace("{schedule: cosine-oracle}", own)
    with pytest.raises(SoftmapError, match=said):
        plans.make_plan(arms(tmp_path, text), 257)

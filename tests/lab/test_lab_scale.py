"""``softmap scale``: the runs of a recipe's sizes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lab_tiny import write_recipe

from softmap.cli import main
from softmap.lab import recipe as recipes
from softmap.lab.scale import each_size

SIZES = """
seeds: 2
sizes: [{hidden_size: 16}, {hidden_size: 32}, {hidden_size: 48, num_hidden_layers: 1, steps: 16}]
"""


def test_each_size_is_an_ordinary_recipe(tmp_path: Path) -> None:
    recipe = recipes.load(write_recipe(tmp_path, SIZES))
    made = list(each_size(recipe))
    assert [one.name for one in made] == ["tiny-16x2", "tiny-32x2", "tiny-48x1"]
    assert [one.training.steps for one in made] == [12, 12, 16]
    assert made[2].model.hidden_size == 48 and made[2].sizes == []
    assert recipes.parse(recipes.dump(recipe), tmp_path / "again.yaml").sizes == recipe.sizes


@pytest.mark.parametrize(
    ("more", "words", "said"),
    [
        ("", ["scale", "{recipe}"], "needs a recipe with 3 sizes or more"),
        (SIZES, ["compare", "{recipe}"], "tiny has sizes: softmap scale"),
        ("sizes: [{hiden_size: 3}]", ["scale", "{recipe}"], "hiden_size"),
        ("", ["scale"], "expected runs or a recipe with sizes, found none"),
        ("", ["scale", "{recipe}", "other"], "expected a run"),
    ],
)
def test_bad_input_is_one_line(
    more: str, words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    recipe = write_recipe(tmp_path, more)
    monkeypatch.chdir(tmp_path)
    assert main([word.format(recipe=recipe) for word in words]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert said in told[-1] and told[-1].startswith("softmap: error: ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("no_page")
def test_a_sweep_is_trained_and_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path, SIZES)
    monkeypatch.chdir(tmp_path)
    assert main(["scale", str(recipe), "--jobs", "1"]) == 0
    page = tmp_path / "runs" / "tiny" / "scaling.html"
    assert capsys.readouterr().out.strip().endswith("runs/tiny/scaling.html") and page.is_file()
    found = json.loads(page.with_suffix(".json").read_text())
    assert set(found["variants"]) == {"transformer++", "diff"}
    runs = [f"runs/{name}" for name in found["runs"]]
    assert main(["scale", *runs, "--out", "again"]) == 0
    again = json.loads((tmp_path / "again" / "scaling.json").read_text())
    assert again["variants"] == found["variants"]
    assert main(["scale", *runs[:2]]) == 2
    assert "expected finished runs of the control" in capsys.readouterr().err

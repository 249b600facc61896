"""A run's folder stands for its recipe: it is gone on with, widened, and copied under a name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from lab_tiny import write_recipe

from softmap.cli import main
from softmap.lab import recipe as recipes
from softmap.nn import own
from softmap.variants import code_of, outside


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of one seed, of a recipe that is then thrown away."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = write_recipe(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CI", "1")
        patch.setattr("softmap.lab.workers.default_jobs", lambda *_: 1)
        patch.setattr("softmap.lab.compare.measure_speed", lambda *_: None)
        patch.setattr("softmap.report.build", lambda folder: folder / "report.html")
        words = ["compare", str(recipe), "--name", "t1", "--steps", "12", "--seed-list", "3"]
        assert main(words) == 0
    recipe.unlink()
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, from whose parent's parent the command is called."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CI", "1")
    monkeypatch.setattr("softmap.report.build", lambda folder: folder / "report.html")
    return Path("runs/t1")


def results(run: Path) -> dict[str, Any]:
    paths = sorted(run.glob("variants/*/seed*/result.json"))
    return {
        str(path.relative_to(run / "variants").parent): path.stat().st_mtime_ns for path in paths
    }


def info(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


def test_it_goes_on_and_is_widened_by_name(run: Path) -> None:
    before = results(run)
    assert sorted(before) == ["diff/seed3", "transformerpp/seed3"]
    assert main(["compare", "runs/t1", "--variants", "gated"]) == 0
    assert main(["compare", "runs/t1/", "--seeds", "1"]) == 0
    after = results(run)
    assert sorted(after) == [
        f"{name}/seed{seed}" for name in ("diff", "gated", "transformerpp") for seed in (0, 3)
    ]
    assert {name: after[name] for name in before} == before  # nothing was trained again
    assert info(run)["variants"] == ["transformer++", "diff", "gated"]
    assert info(run)["seeds"] == [0, 3] and info(run)["training"]["steps"] == 12
    assert main(["compare", "runs/t1"]) == 0 and results(run) == after


def test_from_within_and_moved(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move(run, "moved")
    monkeypatch.chdir("moved")
    assert main(["compare", "."]) == 0
    assert info(Path("."))["name"] == "moved"


def test_its_recipe_under_another_name(run: Path) -> None:
    flags = ["--name", "t2", "--steps", "16", "--set", "training.schedule=cosine"]
    assert main(["compare", "runs/t1", *flags]) == 0
    assert info(Path("runs/t2"))["training"]["steps"] == 16
    assert len(info(Path("runs/t2"))["training"]["budgets_tokens"]) == 1
    assert sorted(results(Path("runs/t2"))) == sorted(results(run))


@pytest.mark.slow
def test_what_was_given_before_by_another_call_stays_in_the_recipe(run: Path) -> None:
    write_recipe(Path("."))
    flags = ["--name", "t1", "--steps", "12", "--seed-list", "3", "--variants", "gated"]
    assert main(["compare", "tiny.yaml", *flags]) == 0
    assert "- diff" in info(run)["recipe"]
    assert main(["compare", "runs/t1", "--seed-list", "4"]) == 0
    assert "diff/seed4" in results(run)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--steps", "20"], "runs/t1 holds another run: training.steps was 12, is 20"),
        (["--variants", "dif"], "unknown variant 'dif' (did you mean 'diff'"),
    ],
)
def test_what_does_not_fit_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    before = (run / "run.json").read_bytes()
    assert main(["compare", "runs/t1", *flags]) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert (run / "run.json").read_bytes() == before


def test_code_that_a_run_names_is_not_run_unasked(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    found = info(run)
    found["recipe"] = found["recipe"].replace("- diff", "- mine.py:edit")
    del found["sha256"]
    (run / "run.json").write_text(json.dumps(found))
    assert main(["compare", "runs/t1"]) == 2
    assert "the run names code, 'mine.py:edit'; --trust-remote-code" in capsys.readouterr().err
    assert not Path("ran").exists()
    assert main(["compare", "runs/t1", "--trust-remote-code"]) == 2  # it has no variant in it
    assert Path("ran").exists()


MINE = """
from softmap.variants import Parts, variant

@variant("mine", "Mine")
def mine():
    \"\"\"Plain attention.\"\"\"
    return Parts()
"""


def test_a_file_is_found_beside_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is the present folder; what lies in that one is found where the recipe has none."""
    there, here = tmp_path / "there", tmp_path / "here"
    for folder, name in ((there, "beside.py"), (here, "beside.py"), (here, "present.py")):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(MINE)
    recipe = write_recipe(there)
    recipe.write_text(recipe.read_text().replace("diff]", "beside.py:mine, present.py:mine]"))
    monkeypatch.chdir(here)
    _, beside, present = recipes.load(recipe).variants
    found = [own.home(entry.variant) for entry in (beside, present)]
    assert found == [there, here]
    assert [code_of(*outside(e.variant)[0], e.variant) for e in (beside, present)]
    assert "beside.py:mine" in recipes.dump(recipes.load(recipe))


@pytest.mark.slow
def test_a_run_finds_its_file_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another folder than the one where the path was typed, and after both have moved."""
    monkeypatch.setenv("CI", "1")
    monkeypatch.setattr("softmap.report.build", lambda folder: folder / "report.html")
    work = tmp_path / "work"
    work.mkdir()
    (work / "mine.py").write_text(MINE)
    recipe = write_recipe(tmp_path)
    monkeypatch.chdir(work)
    few = ["--steps", "12", "--seed-list", "3"]
    assert main(["compare", str(recipe), "--name", "t", *few, "--variants", "mine.py:mine"]) == 0
    assert info(Path("runs/t"))["homes"] == {"mine.py:mine": "../.."}
    monkeypatch.chdir(tmp_path)
    more = ["--trust-remote-code", "--seed-list"]
    assert main(["compare", "work/runs/t", *more, "4"]) == 0
    work.rename("moved")
    assert main(["compare", "moved/runs/t", *more, "5"]) == 0
    assert len(results(Path("moved/runs/t"))) == 6


@pytest.mark.slow
def test_a_tuning_is_the_runs_own(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "runs/t1", "--tune"]) == 2  # its trials had other peaks
    assert "trained with other peaks" in capsys.readouterr().err
    assert (
        main(["compare", "runs/t1", "--name", "t2", "--tune", "--set", "tuning.grid=[1e-3, 1e-2]"])
        == 0
    )
    tuned = json.loads(Path("runs/t2/peaks.json").read_text())
    assert tuned["tuned_for"]["steps"] == 12 and set(tuned["peaks"]) == {"transformer++", "diff"}
    result = json.loads(Path("runs/t2/variants/diff/seed3/result.json").read_text())
    assert result["peak_lr_source"] == "tuned"
    assert result["peak_lr"] == tuned["peaks"]["diff"]["peak_lr"]
    # Going on by name still calls them tuned; a variant that is added can be tuned alone.
    assert main(["compare", "runs/t2", "--seed-list", "5", "--variants", "gated", "--tune"]) == 0
    for variant in ("diff", "gated"):
        result = json.loads(Path(f"runs/t2/variants/{variant}/seed5/result.json").read_text())
        assert result["peak_lr_source"] == "tuned"

"""docs/own-variant.md as its reader would follow it: every block of it is run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from softmap.lab import recipe as recipes
from softmap.lab.compare import Request, compare
from softmap.testing import CHECKS, check

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own-variant.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "outside.py").write_text(blocks("python")[0])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_variant_is_short_and_the_one_that_is_tested() -> None:
    """tests/testing/test_suite_passes.py runs this very file through every check."""
    code = blocks("python")[0]
    assert code == (Path(__file__).parent / "outside.py").read_text(encoding="utf-8")
    assert len(code.splitlines()) < 40


def test_python_blocks_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks("python")[1:]:
        exec(compile(block, "own-variant.md", "exec"), {})
    shown = capsys.readouterr().out
    assert all(f"pass  {name}" in shown for name in CHECKS)


def test_a_sum_over_tokens_inside_edit_is_sound(folder: Path) -> None:
    (edit,) = (b for b in blocks("python") if b.startswith("def edit"))
    body = "".join(f"    {line}\n" for line in edit.splitlines())
    (folder / "running.py").write_text(f"""
from torch import nn
from softmap import Edit
from softmap.variants import Parts, variant

class Running(Edit):
    defined_for = "causal"

    def __init__(self, place):
        super().__init__()
        self.mlp = nn.Linear(place.dim, place.heads)

    def key_tensors(self, x):
        return {{"c": self.mlp(x)}}

{body}
@variant("running", "Running")
def running():
    return Parts(scores=[Running])
""")
    report = check("running.py:running", heads=2, head_dim=4)
    assert report.passed, report


def test_every_check_is_in_the_table() -> None:
    for name in CHECKS:
        assert re.search(rf"^\| .*`{name}`.* \|", PAGE, re.MULTILINE), name


@pytest.mark.slow
def test_recipe_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softmap.report.build", lambda run: Path(run) / "report.html")
    (text,) = blocks("yaml")
    tiny = {
        "name": "own",
        "data": {"data": str(_text(folder)), "tokenizer": "bytes"},
        "model": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                  "context": 16},
        "training": {"steps": 4, "batch_size": 2, "budgets": [1], "precision": "fp32"},
        "evaluation": {"windows": 4, "passage_tokens": 8},
    }  # fmt: skip
    (folder / "own.yaml").write_text(yaml.safe_dump(tiny) + text)
    run = compare(recipes.load("own.yaml"), Request(folder / "runs")).parent
    labels = json.loads((run / "run.json").read_text())["variants"]
    own = ["outside.py:multi-token(rows=3)", "outside.py:multi-token+diff"]
    assert labels == ["transformer++", *own]
    losses = [json.loads(p.read_text()) for p in run.rglob("result.json")]
    assert len(losses) == 3 and {r["variant"] for r in losses} == set(labels)


def _text(folder: Path) -> Path:
    """A folder with enough words for training and for what is held out."""
    texts = folder / "texts"
    texts.mkdir()
    for n in range(8):
        (texts / f"{n}.txt").write_text(f"Page {n}. " + PAGE)
    return texts

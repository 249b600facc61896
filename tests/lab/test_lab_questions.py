"""Questions beyond the loss that a comparison puts to its trained models."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from softmap.errors import SoftmapError
from softmap.evals.catalogue import suite
from softmap.evals.question import Setting
from softmap.evals.summary import answers
from softmap.lab.asking.models import find, load, text_of
from softmap.lab.compare import Request, compare
from softmap.lab.recipe import Recipe


def asking(recipe: Recipe, *suites: str) -> Recipe:
    evaluation = dataclasses.replace(recipe.evaluation, suites=list(suites))
    return dataclasses.replace(recipe, evaluation=evaluation)


def test_answers_are_those_of_softmap_eval_and_stand_on_the_page(
    tiny: Recipe, tmp_path: Path
) -> None:
    page = compare(asking(tiny, "repeats"), Request(tmp_path))
    written = json.loads((page.parent / "variants/diff/seed0/answers.json").read_text())
    model = next(one for one in find([str(page.parent)]) if one.label == "diff")
    text = text_of([model], None, None, tmp_path / ".cache")
    setting = Setting(tiny.model.context, 257, text=text)
    asked = suite("repeats")
    expected = answers(asked, asked.rows(load(model), setting), values=False)
    assert written["repeats"]["answers"] == json.loads(json.dumps(expected))
    report = json.loads((page.parent / "report.json").read_text())
    (headline, *_) = report["questions"]["repeats"]["cells"]
    assert headline["measure"] == "repeated" and headline["at"] is None
    (mean,) = [o["mean"] for o in expected if (o["measure"], o["at"]) == ("repeated", None)]
    assert headline["models"]["diff"]["mean"] == mean
    assert headline["differences"]["diff"]["answer"] == "unknown"  # one run of each
    assert "Recall in text" in page.read_text()
    assert (page.parent / "charts" / "repeats_repeated_distance.svg").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("repeat", "no suite 'repeat' (did you mean 'repeats'?)"),
        ("needles", "transformer++: suite needles needs a context of at least"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_the_first_step(
    tiny: Recipe, tmp_path: Path, name: str, said: str
) -> None:
    with pytest.raises(SoftmapError) as refused:
        compare(asking(tiny, name), Request(tmp_path))
    assert str(refused.value).startswith(said)
    assert not list(tmp_path.rglob("run.json")) and not list(tmp_path.rglob("trial.json"))

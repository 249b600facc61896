"""Names, strings, lists and files to a composition; errors that name the nearest."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest

from softmap.errors import SoftmapError
from softmap.variants import Parts, edits, load, names
from softmap.variants._text import label_of, parse


def test_every_variant_describes_itself() -> None:
    for name in names():
        made = load(name)
        assert made.label == name and made.title and len(made.doc) > 20
        assert (made.source is None) or made.source.startswith("https://")


def test_the_five_papers_and_their_controls_are_there() -> None:
    wanted = "transformer transformer++ talking-heads temperature gated diff diff2 dcmha dape nope"
    wanted += " alibi kerple fire sas sas-p v-skipinit parallel"
    assert set(wanted.split()) <= set(names())


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        ("diff + dcmha(rank=4)", "diff+dcmha(rank=4)"),
        (["diff", {"dcmha": {"rank": 4}}], "diff+dcmha(rank=4)"),
        ({"diff": None, "dcmha": {"rank": 4}}, "diff+dcmha(rank=4)"),
        ("transformer+++diff", "transformer+++diff"),
        ("diff+transformer++", "diff+transformer++"),
        ("transformer++", "transformer++"),
        ("transformer++(norm=layernorm)+gated", "transformer++(norm=layernorm)+gated"),
        ("dcmha(static=True, pattern = LG)", "dcmha(static=true,pattern=LG)"),
        ("dcmha(qk_norm=null)", "dcmha(qk_norm=null)"),
        ("dape(bias=none)", "dape(bias=none)"),
        ("diff(lambda_init=0.5)", "diff(lambda_init=0.5)"),
    ],
)
def test_label_is_canonical_and_loads_again(spec: object, label: str) -> None:
    made = load(spec)  # type: ignore[arg-type]
    assert made.label == label
    again = load(made.label)
    assert (again.label, again.members) == (made.label, made.members)


def test_nested_options_survive_the_label() -> None:
    options = {"sizes": {"a": 1, "b": [2, None]}, "pair": (1, "x")}
    assert parse(label_of("mine", options)) == ("mine", options)


def test_order_is_kept() -> None:
    one, two = load("talking-heads+temperature"), load("temperature+talking-heads")
    assert [str(b) for b in one.parts.scores] != [str(b) for b in two.parts.scores]
    assert len(one.parts.scores) == 2 and len(one.parts.weights) == 1


def test_peak_and_papers_are_gathered() -> None:
    made = load("diff+dcmha")
    assert made.paper == "arXiv 2410.05258, arXiv 2405.08553"
    assert made.title == "Differential attention + Dynamically composable MHA"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dif", r"unknown variant 'dif' \(did you mean 'diff'.*known: "),
        ("folder/own.py", "expected one in it, folder/own.py:NAME"),
        ("diff+package.own(x=1)", "expected one in it, package.own:NAME"),
        ("diff+", "cannot read variant ''"),
        ("", "cannot read variant ''"),
        ([], "at least one name, found an empty list"),
        (3, "a name, a list or a mapping, found int"),
        ("diff(lambda=0.5)", r"variant 'diff' has no option 'lambda' \(did you mean 'lambda_init'"),
        ("diff(0.5)", "cannot read '0.5' in variant 'diff"),
        ("diff(lambda_init=0.5", "its brackets do not match"),
        ("nope(x=1)", "variant 'nope' has no option 'x'; options: none"),
        ("diff(head_norm=no)", "variant 'diff': head_norm: expected true or false, found 'no'"),
        (
            "dcmha(rank=2.5)",
            "variant 'dcmha': rank: expected a whole number from 1 to 256, found 2.5",
        ),
        (
            "diff(lambda_init=abc)",
            "lambda_init: expected a number from 0 below 1 or nothing, found 'abc'",
        ),
        ([{"dcmha": 4}], "options of 'dcmha' must be a mapping, found 4"),
        ("missing.py:mine", "cannot load variants from missing.py"),
        ("missing_module_x:mine", "cannot load variants from missing_module_x"),
    ],
)
def test_bad_spec_is_one_line(spec: object, message: str) -> None:
    with pytest.raises(SoftmapError, match=message) as error:
        load(spec)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


MINE = """
from __future__ import annotations

from dataclasses import dataclass

from softmap.variants import Parts, variant

@dataclass
class Sizes:
    width: int = 3

@variant("mine", "Mine")
def mine(*, width: int = 3) -> Parts:
    '''Nothing yet, of the given width.'''
    return Parts(backbone={"norm_eps": 1e-3 * width})
"""


def test_variant_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(MINE)
    made = load(f"{file}:mine(width=2)+diff")
    assert made.parts.backbone == {"norm_eps": 2e-3}
    assert load(made.label).label == made.label
    with pytest.raises(SoftmapError, match=r"no variant 'min' in .*own.py: found mine \(did you"):
        load(f"{file}:min")
    broken = tmp_path / "broken.py"
    broken.write_text("def (")
    with pytest.raises(SoftmapError, match=r"cannot load variants from .*broken.py"):
        load(f"{broken}:mine")


def test_variant_from_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "softmap_own_module.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    assert load("softmap_own_module:mine").title == "Mine"


def test_unknown_field_of_the_backbone_is_told(tmp_path: Path) -> None:
    """By whoever loads the variant, ``softmap.edits`` too."""
    own = tmp_path / "own.py"
    own.write_text(MINE.replace('"norm_eps"', '"norms_eps"'))
    says = "variant .*own.py:mine': Parts.backbone: no backbone field 'norms_eps' .* 'norm_eps'"
    with pytest.raises(SoftmapError, match=says):
        edits(f"{own}:mine", heads=2, head_dim=4)


def test_unknown_field_of_parts_is_told() -> None:
    says = r"Parts has no field 'score' \(did you mean 'scores'\?\); fields: scores, normaliser, we"
    with pytest.raises(SoftmapError, match=says):
        Parts(score=[])  # type: ignore[call-arg]
    made = Parts([], backbone={"norm_eps": 1.0})
    assert copy.copy(made) == made and replace(made, scores=()).backbone == made.backbone

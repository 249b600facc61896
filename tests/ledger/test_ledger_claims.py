"""Every claim is whole, and can be planned at every scale where it is tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from softmap.claims._bases import SMALL, Base
from softmap.claims._claim import SCALES, Arm, Asked, Grafted, Learned, Scaled, Study, Timed
from softmap.claims._find import claim, names
from softmap.errors import SoftmapError
from softmap.evals.catalogue import suite
from softmap.lab.learn import learnable, task_suite
from softmap.lab.peaks import Peaks
from softmap.lab.plan import make_plan
from softmap.lab.preflight import vocabulary
from softmap.ledger.trained import needed
from softmap.ledger.workspace import Workspace, _peak, methods
from softmap.report.scaling.sweep import SIZES as SWEPT
from softmap.variants import renamed

STUDIES = [
    (name, scale, study)
    for name in names()
    for scale, studies in claim(name).scales.items()
    if not isinstance(studies, str)
    for study in studies
]


def test_there_are_all_of_them() -> None:
    assert len(names()) == 32
    assert {"dape-extra", "dc-ablate", "graft", "combinations"} <= set(names())
    rows = {
        name: {arm.variant for arm in claim(name).scales["gpu"][0].variants.values()}  # type: ignore[union-attr]
        for name in ("diff-ablate", "dc-ablate", "sas-remove", "dape-kernel")
    }
    plain = {"transformer++", "transformer++(qk_norm=true)", "dape(hidden=10)", "dape(hidden=64)"}
    assert {name: len(own - plain) for name, own in rows.items()} == {
        "diff-ablate": 5, "dc-ablate": 11, "sas-remove": 8, "dape-kernel": 5
    }  # fmt: skip


@pytest.mark.parametrize("name", names())
def test_a_claim_is_whole(name: str) -> None:
    found = claim(name)
    assert found.id == name and set(found.scales) == set(SCALES)
    words = (found.sentence, found.theirs, found.hypothesis, found.protocol, found.paper)
    assert all(words) and found.sentence.endswith(".") and found.source.startswith("https://")
    assert all(found.scales.values())


@pytest.mark.parametrize(("name", "scale", "study"), STUDIES)
def test_a_study_names_what_there_is(name: str, scale: str, study: Study) -> None:
    assert study.references <= study.variants.keys()
    arms = study.arms if isinstance(study, Grafted) else ()
    for arm in (*study.models.values(), *arms):
        assert renamed(arm.variant, {}) == arm.variant  # the folder of its models is named after it
    assert any(arm.expects for arm in study.arms)
    if isinstance(study, Asked):
        assert study.reads in {metric.name for metric in suite(study.suite).metrics}
    if isinstance(study, Learned):
        assert study.task in learnable()
        assert study.reads in {metric.name for metric in task_suite(study.task).metrics}
        assert all(name == arm.variant for name, arm in study.models.items())
    if isinstance(study, Scaled):
        assert len(study.sizes) >= SWEPT and study.base in study.sizes
    if isinstance(study, Timed):
        assert study.measure.unit == "x"


def bases(scale: str) -> dict[str, tuple[Base, dict[str, int]]]:
    """Every base of a scale with all variants that it is asked for."""
    found: dict[str, tuple[Base, dict[str, int]]] = {}
    for _, where, study in STUDIES:
        if where == scale and not isinstance(study, Learned):
            for base, runs in needed(study, Workspace(Path("none"))):
                assert found.setdefault(base.name, (base, {}))[0] == base
                found[base.name][1].update(runs)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES)
def test_all_bases_can_be_planned(scale: str) -> None:
    for base, runs in bases(scale).values():
        if scale != "cpu":  # deep models take seconds each: the control and one more
            runs = dict(list(runs.items())[-1:])
        recipe = Workspace(Path("none")).recipe(base, runs)
        plan = make_plan(recipe, vocabulary(recipe))
        assert {"transformer++", *runs} == {one.label for one in plan.models}


def test_unknown_ids_are_refused_with_the_nearest() -> None:
    with pytest.raises(SoftmapError, match=r"no claim 'dape-extr' \(did you mean 'dape-extra'"):
        claim("dape-extr")


def test_what_was_not_tuned_takes_the_peak_of_its_method() -> None:
    peaks = Peaks({"transformer++": 0.01, "diff": 0.002, "dcmha(qk_norm=true)": 0.004}, "tuned")
    assert _peak("diff", peaks) is None  # its own
    assert _peak("diff(head_norm=false)", peaks) == 0.002
    assert _peak("dcmha(rank=1,qk_norm=true)", peaks) == 0.004
    assert _peak("diff+dcmha(qk_norm=true)", peaks) == 0.002  # the smaller
    assert _peak("kerple", peaks) is None  # the recipe's
    assert methods("transformer++(a=1)+diff") == ["transformer++", "diff"]


def test_references_have_twice_the_runs_and_arms_of_one_base_share_them() -> None:
    study = Asked(
        claim("dape-extra").scales["cpu"][0].measure,  # type: ignore[union-attr]
        (Arm("diff"), Arm("dape", against="diff"), Arm("diff2", label="x", base=Base("b", ""))),
    )  # fmt: skip
    (small, runs), (other, more) = needed(study, Workspace(Path("none"), seeds=3))
    assert (small, other.name) == (SMALL, "b")
    assert runs == {"transformer++": 6, "diff": 6, "dape": 3} and more == {"diff2": 3}

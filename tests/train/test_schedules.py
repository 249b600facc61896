from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from softmap.errors import SoftmapError
from softmap.train.plan import START, Segment, mean_rate, pinned, plan, spent
from softmap.train.schedules import (
    Terms,
    cosine,
    cosine_oracle,
    cyclic_cosine,
    decay_starts,
    descend,
    wsd,
    wsd_s,
)

# Cycles of 20 and 20 steps with decays of 4: steps 16..19 and 36..39.
TERMS = Terms(
    peak=1.0, floor=0.1, warmup=4, budgets=(20, 40), decay_fraction=0.2, decay_shape="linear"
)


def rates(schedule, *steps, **terms):
    changed = replace(TERMS, **terms)
    return [schedule(step, changed) for step in steps]


def test_decay_shapes_halfway_and_at_the_ends():
    assert descend(0.5, 1.0, 0.1, "reciprocal") == pytest.approx(1 / 5.5)
    assert descend(0.5, 1.0, 0.1, "linear") == pytest.approx(0.55)
    assert descend(0.5, 1.0, 0.1, "cosine") == pytest.approx(0.55)
    assert descend(1 / 3, 1.0, 0.1, "cosine") == pytest.approx(0.775)
    for shape in ("reciprocal", "linear", "cosine"):
        assert descend(0, 0.3, 0.07, shape) == 0.3
        assert descend(1, 0.3, 0.07, shape) == 0.07


def test_warm_up_learns_at_step_zero_and_ends_at_the_peak():
    for schedule in (wsd, wsd_s, cosine, cyclic_cosine):
        assert rates(schedule, 0, 1, 2, 3) == [0.25, 0.5, 0.75, 1.0]


def test_wsd_s_decays_at_each_budget_and_resumes_at_the_peak_at_once():
    assert rates(wsd_s, 4, 15) == [1.0, 1.0]
    assert rates(wsd_s, 16, 17, 18, 19) == pytest.approx([0.775, 0.55, 0.325, 0.1])
    assert rates(wsd_s, 20, 21, 35) == [1.0, 1.0, 1.0]
    assert rates(wsd_s, 36, 37, 38, 39) == pytest.approx([0.775, 0.55, 0.325, 0.1])
    assert rates(wsd_s, 19, 39) == [0.1, 0.1]  # the floor exactly


def test_reciprocal_decay_is_linear_in_one_over_the_rate():
    inverse = [1 / lr for lr in rates(wsd_s, 15, 16, 17, 18, 19, decay_shape="reciprocal")]
    assert inverse == pytest.approx([1.0, 3.25, 5.5, 7.75, 10.0])


def test_decay_of_the_steps_so_far_is_longer_in_later_cycles():
    so_far = replace(TERMS, decay_of="so_far")
    assert decay_starts(TERMS) == (16, 36)
    assert decay_starts(so_far) == (16, 32)
    assert wsd_s(31, so_far) == 1.0
    assert wsd_s(32, so_far) == pytest.approx(1 - 0.9 / 8)


def test_default_decay_is_a_tenth_of_the_cycle():
    terms = Terms(peak=1.0, floor=0.1, budgets=(100, 300))
    assert decay_starts(terms) == (90, 280)


def test_wsd_branches_leave_an_undecayed_trunk():
    assert rates(partial(wsd, budget=0), 15, 19) == [1.0, 0.1]
    assert rates(partial(wsd, budget=1), 15, 16, 19, 20, 35) == [1.0] * 5
    assert rates(partial(wsd, budget=1), 37, 39) == pytest.approx([0.55, 0.1])


def test_cosine_falls_from_the_end_of_the_warm_up_to_the_last_step():
    # Peak at step 3, floor at step 19: halfway at step 11, a quarter at step 7.
    one = replace(TERMS, budgets=(20,))
    assert cosine(11, one) == pytest.approx(0.55)
    assert cosine(7, one) == pytest.approx(0.1 + 0.9 * (1 + 0.5**0.5) / 2)
    assert cosine(19, one) == 0.1


def test_cosine_without_warm_up_starts_at_the_peak():
    assert rates(cosine, 0, 39, warmup=0) == [1.0, 0.1]


def test_cyclic_cosine_returns_to_the_peak_and_reaches_each_floor():
    assert rates(cyclic_cosine, 11, 19, 20, 39) == pytest.approx([0.55, 0.1, 1.0, 0.1])
    halfway = replace(TERMS, budgets=(20, 41))  # peak at 20, floor at 40
    assert cyclic_cosine(30, halfway) == pytest.approx(0.55)


def test_cosine_oracle_is_one_run_per_budget():
    assert [run.budgets for run in cosine_oracle(TERMS)] == [(20,), (40,)]


def test_zero_floor_is_reached_by_linear_and_cosine_and_refused_by_reciprocal():
    assert rates(wsd_s, 19, floor=0.0) == [0.0]
    assert rates(wsd_s, 19, floor=0.0, decay_shape="cosine") == [0.0]
    assert rates(cosine, 39, floor=0.0, decay_shape="reciprocal") == [0.0]
    with pytest.raises(SoftmapError, match="positive floor"):
        rates(wsd_s, 0, floor=0.0, decay_shape="reciprocal")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"budgets": (20, 20)}, "ascending"),
        ({"budgets": (0, 20)}, "positive"),
        ({"budgets": ()}, "at least one"),
        ({"peak": 0.0, "floor": 0.0}, "peak > 0"),
        ({"floor": 2.0}, "floor <= peak"),
        ({"warmup": 20}, "warmup"),
        ({"warmup": -1}, "warmup"),
        ({"decay_fraction": 1.0}, "decay_fraction"),
        ({"decay_of": "run"}, "decay_of"),
        ({"decay_shape": "square"}, "decay_shape"),
    ],
)
def test_terms_that_make_no_sense_are_refused(bad, message):
    with pytest.raises(SoftmapError, match=message):
        replace(TERMS, **bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"warmup": 16},  # no step at the peak between warm-up and decay
        {"budgets": (20, 21)},  # a cycle of one step
        {"budgets": (20, 24), "decay_of": "so_far"},  # a decay longer than its cycle
    ],
)
def test_decays_that_do_not_fit_are_refused(bad):
    with pytest.raises(SoftmapError, match="step at the peak"):
        decay_starts(replace(TERMS, **bad))


def test_steps_outside_of_the_run_are_refused():
    for schedule, step in ((wsd_s, 40), (wsd_s, -1), (cosine, 40), (cyclic_cosine, 40)):
        with pytest.raises(SoftmapError, match="step"):
            schedule(step, TERMS)
    with pytest.raises(SoftmapError, match="step"):
        wsd(20, TERMS, budget=0)


def outline(segments: list[Segment]) -> list[tuple]:
    return [(s.origin, s.start, s.stop, s.budget) for s in segments]


def test_chained_plans_go_on_from_each_budget():
    chain = [(START, 0, 20, 0), ((0, 20), 20, 40, 1)]
    assert outline(plan("wsd-s", TERMS)) == chain
    assert outline(plan("cyclic-cosine", TERMS)) == chain
    assert pinned(plan("wsd-s", TERMS), 0) == set()


def test_wsd_plan_branches_from_the_trunk():
    segments = plan("wsd", TERMS)
    assert outline(segments) == [
        (START, 0, 16, None),
        ((0, 16), 16, 20, 0),
        ((0, 16), 16, 36, None),
        ((2, 36), 36, 40, 1),
    ]
    assert segments[1].lr(19) == 0.1
    assert segments[2].lr(19) == 1.0
    assert pinned(segments, 0) == {(0, 16)}
    assert pinned(segments, 3) == set()


def test_oracle_plan_starts_each_run_anew():
    segments = plan("cosine-oracle", TERMS)
    assert outline(segments) == [(START, 0, 20, 0), (START, 0, 40, 1)]
    assert segments[0].lr(19) == segments[1].lr(39) == 0.1
    assert pinned(segments, 0) == {START}


def test_a_segment_knows_where_its_decay_begins():
    assert [s.decay for s in plan("wsd-s", TERMS)] == [16, 36]
    assert [s.decay for s in plan("wsd", TERMS)] == [None, 16, None, 36]
    assert [s.decay for s in plan("cyclic-cosine", TERMS)] == [None, None]


def test_what_a_schedule_spends_and_its_mean_rate():
    plans = {name: plan(name, TERMS) for name in ("wsd-s", "wsd", "cosine-oracle")}
    steps = {name: [spent(found, 0), spent(found, 1)] for name, found in plans.items()}
    assert steps == {"wsd-s": [20, 40], "wsd": [20, 44], "cosine-oracle": [20, 60]}
    # Of wsd the path to the last budget has no decay but its own; the other's was thrown away.
    path = [wsd(t, TERMS) for t in range(40)]
    assert mean_rate(plans["wsd"]) == pytest.approx(sum(path) / 40)
    assert mean_rate(plans["wsd-s"]) == pytest.approx(sum(wsd_s(t, TERMS) for t in range(40)) / 40)
    first = [wsd(t, TERMS, budget=0) for t in range(20)]
    assert mean_rate(plans["wsd"], 0) == pytest.approx(sum(first) / 20)


def test_plans_refuse_unknown_names_and_a_cosine_of_several_budgets():
    with pytest.raises(SoftmapError, match="did you mean 'wsd-s'"):
        plan("wsds", TERMS)  # type: ignore[arg-type]
    with pytest.raises(SoftmapError, match="one budget"):
        plan("cosine", TERMS)
    assert outline(plan("cosine", replace(TERMS, budgets=(20,)))) == [(START, 0, 20, 0)]

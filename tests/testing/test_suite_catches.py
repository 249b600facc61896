"""A suite that cannot fail proves nothing: each fault is found, by the check that is about it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

import softmap.testing
from softmap.errors import SoftmapError
from softmap.nn import accounting
from softmap.ops import chunked
from softmap.testing import CHECKS, QUICK, CheckSubject, check


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("fault", "found_by"),
    [
        ("leak", {"causality", "decoding"}),
        ("length", {"chunked", "decoding"}),
        ("hidden", {"chunked"}),
        ("detached", {"gradients"}),
        ("nohalo", {"chunked", "decoding"}),
        ("nopad", {"chunked", "decoding"}),
        ("places", {"batching", "packing"}),
        ("distant", {"bidirectional", "cross"}),
        ("across", {"batching", "packing", "bidirectional"}),
        ("unmasked", {"map", "causality"}),
        ("wrongfold", {"folded"}),
        ("unsaved", {"saving"}),
        ("behind", {"parameters"}),
        ("stuck", {"parameters"}),
        ("scalar", {"parameters"}),
        ("longleak", {"causality"}),
        ("trainingleak", {"causality"}),
    ],
)
def test_fault_is_found(fault: str, found_by: set[str]) -> None:
    report = check(f"broken.py:{fault}", heads=2, head_dim=4, only=sorted(found_by))
    assert found_by == {o.name for o in report.failures}, report
    assert all("\n" not in str(o) for o in report.outcomes)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("raises", r"Raises.edit raises KeyError: 'no such tensor'"),
        ("nothing", "Nothing.edit returns NoneType, not a tensor"),
        ("narrow", r"Narrow.edit returns a map of shape \(2, 2, 6, 7\), not \(2, 2, 7, 7\)"),
        ("coarse", "Coarse.edit is given torch.float64 and returns torch.bfloat16"),
        ("inplace", "InPlace.edit changes m in place"),
        ("inplacetensor", r"InPlaceTensor.edit changes t\['w'\] in place"),
        ("cutmap", "CutMap.edit: its result depends on m but has no gradient"),
        ("detached", r"Detached.edit: its result depends on t\['w'\] but has no gradient"),
        ("random", "Random.edit draws random numbers"),
        ("counts", "Counts.edit gives another result when called again"),
        ("prints", "Prints.edit prints to standard output: .shape"),
        ("rows", "Rows.edit: sequence 0 of the batch changed when sequence 1 was changed"),
        ("infinite", "Infinite.edit returns NaN or infinity"),
        ("hidden", "Hidden.edit reads its parameter 'weight' from self"),
        (
            "leak",
            "row 3 changed when tokens 4 to 6 were changed; a row must not read later tokens; "
            r"now: \S+, before: \S+, at \[sequence \d, head \d, row 3, key 3\]",
        ),
        ("runningkey", r"RunningKey.key_tensors: 'c' reads more than its own token.* inside edit"),
        ("batchkey", "BatchKey.key_tensors: 'c' reads more than its own token"),
        ("placekey", "PlaceKey.key_tensors: 'c' reads more than its own token"),
        (
            "runningquery",
            r"RunningQuery.query_tensors: 'c' .* at \[sequence \d, token \d, ind",
        ),
    ],
)
def test_a_fault_of_one_edit_is_told_plainly(fault: str, says: str) -> None:
    (failure,) = check(f"broken.py:{fault}", heads=2, head_dim=4, only=["edits"]).failures
    assert failure.error is not None and re.search(says, failure.error)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("fault", "check_name", "says"),
    [
        ("leak", "causality", r"row \d+ changed when .*; now: N, before: N, at \[sequence \d, row"),
        ("length", "causality", r"became NaN: now: N, before: N, at \[sequence \d, row"),
        ("hidden", "chunked", r"gradient of edits.0.weight at .* the whole map: N, at \[\d\]"),
        ("wrongfold", "folded", r"folded in bands of 4: N, the whole map: N, at \[sequence"),
        ("nohalo", "decoding", r"decoded token by token \(impl reference, window None, pad\w+ 0\): "
         r"with a cache: N, in one pass: N, at \[sequence \d, row \d+, channel \d\] \(largest"),
        ("length", "rollback", r"cropped to 8 tokens .* with the cropped cache: N, in one pass: N"),
        ("places", "batching", r"padding at the left, in one pass .* in a batch: N, alone: N, at"),
        ("across", "packing", r"packed: N, each alone: N, at \[sequence \d, row \d+, channel \d"),
        ("unmasked", "map", r"found: 0.1, expected: 0, at \[sequence 0, head 0, row 0, key 1\]"),
        ("unsaved", "saving", r"loaded: N, saved: N, at .* of \d+ numbers are not bitwise equal"),
        ("detached", "gradients", r"gradient of edits.0.weight is not .* gives 0, finite .* N"),
        ("behind", "parameters", r"a parameter is read while its own module is not called"),
        ("runningkey", "decoding", r"; the likely cause: RunningKey.key_tensors: 'c' reads more"),
    ],
)  # fmt: skip
def test_a_failure_shows_what_was_compared(fault: str, check_name: str, says: str) -> None:
    (failure,) = check(f"broken.py:{fault}", heads=2, head_dim=4, only=[check_name]).failures
    pattern = re.sub(r" N\b", r" -?[\\d.e-]+", says)
    assert failure.error is not None and re.search(pattern, failure.error), failure


@pytest.mark.parametrize("wrong", ["q", "a layer's tensor"])
def test_precision_names_the_tensor(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = chunked.run

    class Coarse(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, t: Tensor) -> Tensor:
            return t.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad * 1.5

    def coarse(call: Any) -> Tensor:
        flat = call.flatten()[1]
        at = 0 if wrong == "q" else len(flat) - 1
        return run(call.unflatten([Coarse.apply(t) if n == at else t for n, t in enumerate(flat)]))

    monkeypatch.setattr(chunked, "run", coarse)
    says = "gradient of q in" if wrong == "q" else r"Compose's key tensor 'kg' \(edit 1\)"
    with pytest.raises(AssertionError, match=says):
        CHECKS["precision"](CheckSubject("dcmha"))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "fault", ["length", "nohalo", "nopad", "places", "across", "unmasked", "wrongfold", "unsaved"]
)
def test_the_quick_form_finds_what_one_edit_does_not_show(fault: str) -> None:
    """With the faults above: every fault that there is, and it stops at the first check."""
    report = check(f"broken.py:{fault}", heads=2, head_dim=4, quick=True)
    assert not report.passed and report.outcomes[-1] == report.failures[0]
    assert set(QUICK) < set(CHECKS)


def test_sound_variant_passes_and_prints() -> None:
    report = check("diff", only=["map", "folded"])
    assert report.passed, report
    assert str(report).splitlines() == ["diff", "  pass  map", "  pass  folded"]
    note = check("dcmha", only=["folded"]).outcomes[0].note
    assert note is not None and "Compose" in note


def test_buffer_left_unwritten_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = chunked._forward

    def lazy(*args: Any) -> Tensor:
        whole = forward(*args)
        out = torch.empty_like(whole)
        out[:, :, :-1] = whole[:, :, :-1]
        return out

    monkeypatch.setattr(chunked, "_forward", lazy)
    with pytest.raises(AssertionError, match=r"output in torch\.bfloat16: not finite"):
        CHECKS["precision"](CheckSubject("transformer++"))


def test_coarse_result_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    run = chunked.run

    def coarse(call: Any) -> Tensor:
        exact = run(call)
        return exact + (exact.to(torch.float8_e4m3fn).to(exact.dtype) - exact).detach()

    monkeypatch.setattr(chunked, "run", coarse)
    with pytest.raises(AssertionError, match=r"output in torch\.bfloat16: error .* more than 2 x"):
        CHECKS["precision"](CheckSubject("transformer++"))


def test_wrong_count_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    count = accounting.elements_per_token
    monkeypatch.setattr(accounting, "elements_per_token", lambda a, dim: count(a, dim) + 1)
    with pytest.raises(AssertionError, match="cache grows by"):
        CHECKS["accounting"](CheckSubject("dcmha"))


def test_crash_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(subject: CheckSubject) -> None:
        raise KeyError("first\nsecond")

    monkeypatch.setitem(CHECKS, "map", crash)
    (outcome,) = check("diff", only=["map"]).failures
    assert outcome.error is not None and outcome.error.startswith("KeyError: ")


def test_bad_calls_are_errors() -> None:
    with pytest.raises(SoftmapError, match="no check 'casuality' \\(did you mean 'causality'"):
        check("diff", only=["casuality"])
    with pytest.raises(SoftmapError, match="diff subtracts pairs of maps"):
        check("diff", heads=3)
    with pytest.raises(SoftmapError, match="unknown variant 'dif'"):
        check("dif")


def test_checks_leave_no_trace() -> None:
    torch.manual_seed(5)
    rows, poison = chunked.MIN_ROWS, torch.are_deterministic_algorithms_enabled()
    state = torch.get_rng_state()
    check("diff", only=["precision", "chunked", "saving"])
    assert torch.equal(torch.get_rng_state(), state)
    assert (chunked.MIN_ROWS, torch.are_deterministic_algorithms_enabled()) == (rows, poison)


def test_every_check_says_what_it_checks() -> None:
    assert all(check.__doc__ for check in softmap.testing.CHECKS.values())

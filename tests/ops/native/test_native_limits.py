"""What the native backend refuses, by one line, and what it must not refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from native_cases import Case
from torch import Tensor
from torch.autograd import forward_ad

from softmap.errors import SoftmapError
from softmap.ops import attention
from softmap.ops.call import Call
from softmap.testing.compare import assert_same


def native_of(call: Call, **options: Any) -> Tensor:
    return attention(
        call.q, call.k, call.v, call.edits, tensors=call.tensors, impl="native", **options
    )


def test_forward_mode_is_refused() -> None:
    call = Case("dcmha", tokens=5).call()

    def of(q: torch.Tensor) -> torch.Tensor:
        return native_of(call.unflatten([q, *call.flatten()[1][1:]]))

    with pytest.raises(SoftmapError, match="no forward-mode derivatives; 'reference' can"):  # noqa: SIM117
        with forward_ad.dual_level():
            of(forward_ad.make_dual(call.q, call.q))
    with pytest.raises(SoftmapError, match="transform torch's own operations alone; 'reference' c"):
        torch.func.jvp(of, (call.q,), (call.q,))


def test_a_rank_without_kernels_is_refused() -> None:
    with pytest.raises(SoftmapError, match="native kernels up to rank 4; "):
        native_of(Case("dcmha(rank=5)", tokens=5).call())


MASK = torch.ones(2, 10, dtype=torch.bool)
PLACES = torch.arange(10)[None]


@pytest.mark.parametrize(
    "options",
    [
        {"cols": 2 * PLACES},
        {"cols": 2 * PLACES, "key_mask": MASK},
        {"cols": 2 * PLACES, "documents": torch.zeros(1, 10, dtype=torch.long)},
        {"rows": PLACES + 1},
        {"cols": PLACES.double(), "rows": PLACES.double()},
    ],
    ids=["skip", "skip and mask", "skip and documents", "rows", "fractions"],
)
@pytest.mark.parametrize("variant", ["kerple", "dape", "fire"])
def test_positions_that_a_bias_would_count_wrongly_are_refused(
    variant: str, options: dict[str, Any]
) -> None:
    with pytest.raises(SoftmapError, match="positions"):
        native_of(Case(variant, tokens=10).call(), **options)


@pytest.mark.parametrize("variant", ["kerple", "dape(bias=fire)"])
def test_positions_that_it_counts_rightly_are_taken(variant: str) -> None:
    """All shifted; counted from the first real token; of a narrower type."""
    call = Case(variant, tokens=10).call()
    padded = MASK.clone()
    padded[0, :3] = False
    for options in (
        {"cols": PLACES + 5},
        {"cols": (PLACES + 5).int()},
        {"cols": (padded.cumsum(1) - 1).clamp(min=0), "key_mask": padded},
    ):
        got = native_of(call, **options)[:, :, 3:]
        want = attention(
            call.q, call.k, call.v, call.edits, tensors=call.tensors, impl="reference", **options
        )[:, :, 3:]
        assert_same(got, want, str(options))


def test_a_mask_with_a_hole_is_refused() -> None:
    mask = MASK.clone()
    mask[1, 4] = False
    with pytest.raises(SoftmapError, match="hides keys in the middle of a row"):
        native_of(Case("dcmha", tokens=10).call(), key_mask=mask)

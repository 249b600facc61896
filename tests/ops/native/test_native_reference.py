"""Every kernel and switch is the reference in float64, with every gradient."""

from __future__ import annotations

import pytest
import torch
from native_cases import Case, same_as_reference

from softmap.maps import chain
from softmap.ops.native import limits

RANKS = [f"dcmha(rank={rank})" for rank in (1, 2, 3, 4)]
SWITCHES = [
    "dcmha(static=true)",
    "dcmha(query=false)",
    "dcmha(key=false)",
    "dcmha(gates=false)",
    "dcmha(low_rank=false)",
    "dcmha(query=false,key=false,static=true)",
    "dcmha(query=false,key=false)",
    "dcmha(query=false,gates=false,rank=3)",
    "dcmha(key=false,low_rank=false,static=true)",
    "dcmha(pre=false)",
    "dcmha(post=false,static=true)",
]
SMALL = [
    "talking-heads",
    "talking-heads(pre=false)",
    "talking-heads(post=false)",
    "diff",
    "diff2",
    "sas",
    "v-skipinit",
    "temperature",
    "alibi",
    "kerple",
    "fire",
    "softcap(cap=2)",
    "forget",
]
DAPE = [f"dape(kernel={k},bias={b})" for k in (1, 3, 5, 7) for b in ("none", "kerple")] + [
    "dape(version=1,bias=alibi)",
    "dape(bias=alibi,kernel=5)",
    "dape(bias=fire)",
    "dape(bias=fire,kernel=7)",
    "dape(bias=rope,hidden=5)",
]
CHAINS = [
    "diff+dcmha",
    "dcmha(static=true)+diff",
    "diff+talking-heads",
    "talking-heads+diff",
    "diff+diff2",
    "diff2+diff",
    "diff+dape",
    "dape+diff",
    "dcmha+dape(bias=fire)",
    "dape(bias=none)+dcmha(static=true)",
    "talking-heads+dcmha",
    "dcmha+talking-heads",
    "kerple+dcmha",
    "dcmha+fire",
    "fire+talking-heads+temperature",
    "temperature+alibi+dape(bias=none)",
    "sas+dcmha",
    "dcmha+sas",
    "sas+diff",
    "diff+sas",
    "sas+talking-heads(pre=false)",
    "sas+sas",
    "alibi+sas",
    "forget+diff",
    "softcap(cap=2)+dcmha",
]
EVERY = RANKS + SWITCHES + SMALL + DAPE + CHAINS


@pytest.mark.parametrize("variant", EVERY)
def test_every_edit(variant: str) -> None:
    same_as_reference(Case(variant))


def test_every_kernel_is_among_them() -> None:
    used = {
        edit.kernel
        for variant in EVERY
        for stage in ("scores", "weights")
        for _, edit in chain(Case(variant).edits(torch.float64), stage)
    }
    assert used == limits.KERNELS


ONE_OF_EACH = [
    "dcmha(static=true)",
    "talking-heads",
    "diff",
    "diff2+sas",
    "sas",
    "temperature+alibi",
    "fire",
    "dape(kernel=5)",
    "dape(bias=fire)",
    "dape(bias=none,kernel=7)",
]
# A row of the layouts tests the mask, the sizes of tiles and vectors, or the layout of heads.
LAYOUTS = [
    {"tokens": 1},
    {"tokens": 31, "window": 1},
    {"tokens": 33, "window": 9},
    {"tokens": 65, "left": 7},
    {"tokens": 33, "right": 5, "window": 4},
    {"tokens": 40, "left": 36, "batch": 3},
    {"tokens": 20, "hidden": True},
    {"tokens": 45, "packed": (1, 40, 4)},
    {"tokens": 45, "packed": (20, 25), "window": 6, "left": 2},
    {"tokens": 40, "queries": 1},
    {"tokens": 43, "queries": 3, "window": 17},
    {"tokens": 50, "queries": 34, "left": 9},
    {"tokens": 45, "queries": 20, "packed": (10, 30, 5)},
    {"tokens": 18, "width": 5, "value_width": 3},
    {"tokens": 18, "width": 17, "value_width": 33, "batch": 1},
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("variant", ONE_OF_EACH)
def test_every_layout(variant: str, layout: dict) -> None:
    same_as_reference(Case(variant, **layout))


# Tiles have 128 columns, bands 16, 32 or 64 rows, DAPE's products 512 columns.
@pytest.mark.parametrize("tokens", [127, 128, 129, 161])
@pytest.mark.parametrize("variant", ["dcmha(static=true)", "diff", "kerple+sas+dcmha", "dape"])
def test_around_a_tile(variant: str, tokens: int) -> None:
    same_as_reference(Case(variant, tokens=tokens, heads=2, batch=1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [
        {"tokens": 127},
        {"tokens": 64, "batch": 5},
        {"tokens": 129, "window": 128},
        {"tokens": 257, "window": 9},
        {"tokens": 300, "left": 131},
        {"tokens": 300, "right": 40, "window": 140},
        {"tokens": 300, "packed": (130, 1, 60, 109)},
        {"tokens": 300, "queries": 31},
        {"tokens": 515, "window": 600, "batch": 1},
        {"tokens": 1025, "batch": 1, "heads": 2, "width": 4, "value_width": 4},
        {"tokens": 1030, "queries": 70, "window": 520, "batch": 1, "heads": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("variant", ONE_OF_EACH)
def test_long_rows(variant: str, layout: dict) -> None:
    same_as_reference(Case(variant, **layout))


@pytest.mark.parametrize(
    "case",
    [
        Case("dcmha", heads=1),
        Case("talking-heads", heads=3),
        Case("dape(bias=fire)", heads=1),
        Case("dape", heads=3, keys=1, values=1),
        Case("dcmha(rank=4,static=true)", heads=12, keys=4, values=4),
        Case("sas", heads=12, keys=3, values=3),
        Case("diff", heads=2),
        Case("diff", heads=12, keys=4, values=2),
        Case("diff", heads=12, keys=12, values=6, value_width=16),
        Case("diff2", heads=8, keys=2, values=2),
        Case("diff+diff2", heads=8, keys=8, values=2),
        Case("diff+diff2", heads=8, keys=2, values=1),
        Case("diff+dcmha", heads=8, keys=4, values=2, value_width=16),
        Case("sas+diff", heads=8, keys=2, values=2),
    ],
    ids=str,
)
def test_every_layout_of_heads(case: Case) -> None:
    same_as_reference(case)

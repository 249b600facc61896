"""Every variant that ships, and combinations of them, keep every promise of the suite."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from softmap.testing import CHECKS, CheckSubject
from softmap.variants import names

COMBINATIONS = [
    "diff+dcmha",
    "dcmha(static=true)+diff",
    "diff+dape",
    "diff+diff2",
    "diff2(gain=true)+gated(gain=true)",
    "diff(lambda_init=0.8,head_norm=false)",
    "diff2+dape(bias=fire)",
    "dape(bias=rope)",
    "dape(bias=alibi)",
    "dape(bias=fire)",
    "dape(bias=none)",
    "dape(version=1)",
    "dape(kernel=5)",
    "dcmha(pattern=LG,window=8)",
    "dcmha(pattern=LGLL,window=3)",
    "dcmha(backbone=dcpythia)",
    "dcmha(qk_norm=true,rank=1)",
    "dcmha(query=false,pre=false)",
    "dcmha(key=false,gates=false,rank=4)",
    "dcmha(low_rank=false,post=false)",
    "dcmha(query=false,key=false,static=true)",
    "kerple+dcmha",
    "talking-heads+temperature+gated",
    "sas+dcmha",
    "sas+diff",
    "diff+sas",
    "fire+sas-p",
    "sas(value=linear,first_value=linear,output=linear)",
    "v-skipinit+talking-heads(pre=false)",
    "transformer(position=sinusoidal)",
    "transformer++(pattern=LG,window=3)",
    # A halo in either stage, alone and in a chain with other halos, pads and pairs.
    "outside.py:multi-token",
    "outside.py:multi-token(rows=4,keys=5,post=true)",
    "outside.py:multi-token(rows=2)+dape(kernel=5)+diff2+outside.py:multi-token(post=true)",
    # A normaliser before and after edits of the older kinds, with and without closed forms.
    "sink+diff",
    "sink+dcmha",
    "sink+talking-heads",
    "kerple+off-by-one",
    "softpick+diff2",
    "sigmoid+sas",
    "stick-breaking(rest=true)+diff",
    "forget+diff",
    "forget(rope=true)+stick-breaking",
    "ssmax+dcmha",
    "ssmax+softcap+sink",
    "cope(positions=3)+diff2",
    "xsa+diff+gated(channels=true)",
    "gated(channels=true,gain=true)+off-by-one",
    "multi-token(rows=2,keys=3)+sink",
]
GROUPED = [
    "transformer++",
    "diff",
    "diff2",
    "dcmha",
    "dape",
    "diff+diff2",
    "talking-heads+gated",
    "v-skipinit(value=linear,output=linear)",
    "outside.py:multi-token",
    "sink+diff",
    "xsa+forget",
    "cope+stick-breaking",
]
# Of these a fifth of all checks are in every run of the tests, of others fewer.
FIRST = {
    "transformer", "transformer++", "talking-heads", "temperature", "gated", "diff", "diff2",
    "dcmha", "dape", "nope", "alibi", "kerple", "fire", "sas", "sas-p", "v-skipinit", "parallel",
}  # fmt: skip
SHIPPED = [CheckSubject(v) for v in names()]
OTHERS = [CheckSubject(v) for v in COMBINATIONS] + [CheckSubject(v, kv_heads=2) for v in GROUPED]


def _cases() -> list[Any]:
    """Every variant through every check; most pairs are slow tests."""
    first = [s for s in SHIPPED if s.variant in FIRST]
    newer = [s for s in SHIPPED if s.variant not in FIRST]
    return [
        pytest.param(subject, name, marks=[pytest.mark.slow] if (n + m) % every else [])
        for subjects, every in ((first, 5), (newer, 9), (OTHERS, 9))
        for (n, subject), (m, name) in product(enumerate(subjects), enumerate(CHECKS))
    ]


def _id(value: Any) -> str:
    if not isinstance(value, CheckSubject):
        return str(value)
    return value.variant + (f"@{value.kv_heads}" if value.kv_heads else "")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("subject", "name"), _cases(), ids=_id)
def test_keeps(subject: CheckSubject, name: str) -> None:
    CHECKS[name](subject)


def test_folded_runs_where_it_should() -> None:
    """Else the closed forms' check would pass by not being run."""
    for variant in (
        "transformer++",
        "diff",
        "diff2",
        "diff+diff2",
        "sas",
        "sas+diff",
        "temperature",
        "sink+diff",
        "ssmax+xsa",
    ):
        assert CHECKS["folded"](CheckSubject(variant)) is None
    note = CHECKS["folded"](CheckSubject("dcmha"))
    assert note is not None and "no closed form" in note

"""Edits put into a model that was trained without."""

from softmap.claims._bases import MEDIUM, ONE_CARD, SMALL
from softmap.claims._claim import LOSS, Arm, Claim, Grafted, on

_ARMS = tuple(
    Arm(name, "lower")
    for name in ("diff2", "dcmha(qk_norm=false)", "dape", "talking-heads", "gated")
)
_STUDY = Grafted(LOSS, _ARMS)

CLAIM = Claim(
    sentence="An edited map helps a model that was trained with plain attention.",
    paper="asked by a reader of the papers; nobody claims it",
    source="https://openreview.net/forum?id=OvoCm1gGhN",
    theirs="none",
    hypothesis="After as many steps of fine-tuning from the same model, the grafted one has the "
    "lower loss.",
    protocol="softmap graft: the edit leaves the function unchanged at step 0, or its deviation is "
    "printed; then 300 steps of fine-tuning, beside plain fine-tuning with equal steps and seeds "
    "and peaks from the same grid.",
    scales={
        "cpu": on(_STUDY, SMALL, MEDIUM),
        "gpu": on(_STUDY, ONE_CARD),
        "paper": "nobody has published it",
    },
)

"""The river valley."""

from softmap.claims._bases import ONE_CARD_KEPT, RIVER
from softmap.claims._claim import Arm, Asked, Claim, Measure, on

_SHARP = Asked(
    Measure("Share of a step in the sharpest directions", "share", 0.01, "higher"),
    (Arm("step decay", "higher"), Arm("step stable")),
    control="step river", suite="river", reads="sharp", within="step",
)  # fmt: skip

CLAIM = Claim(
    sentence="The stable phase moves along a river while it bounces between hills; the decay falls "
    "to the river.",
    paper="Understanding Warmup-Stable-Decay Learning Rates, sections 2 and 3",
    source="https://arxiv.org/abs/2410.05192",
    theirs="figures",
    hypothesis="A decay moves in the sharpest directions of the loss, of which the way from one "
    "decayed point to the next, the river, has less.",
    protocol="Suite river: weights before and after each decay of Transformer++; how much of a "
    "step's length lies within the directions of the Hessian's five largest eigenvalues at the "
    "last decayed point. The lines and the plane between the points are in the suite's page.",
    scales={
        "cpu": on(_SHARP, RIVER),
        "gpu": on(_SHARP, ONE_CARD_KEPT),
        "paper": "no sizes are given at which the authors looked at curvature",
    },
)

"""Cheap controls of DIFF."""

from softmap.claims._bases import MEDIUM, ONE_CARD, PAPER_DIFF, SMALL
from softmap.claims._claim import LOSS, Arm, Claim, Trained, on

_STUDY = Trained(
    LOSS,
    (Arm("temperature", "higher"), Arm("gated", "higher"), Arm("transformer++", "higher")),
    control="diff",
)

CLAIM = Claim(
    sentence="DIFF is better than a learnable temperature and than gated attention.",
    paper="Differential Transformer, the authors' answers to its reviewers",
    source="https://openreview.net/forum?id=OvoCm1gGhN",
    theirs="in words",
    hypothesis="Both controls end with a higher loss than diff.",
    protocol="One temperature a head; one sigmoid gate a head and token on the output.",
    scales={
        "cpu": on(_STUDY, SMALL, MEDIUM),
        "gpu": on(_STUDY, ONE_CARD),
        "paper": on(_STUDY, PAPER_DIFF),
    },
)

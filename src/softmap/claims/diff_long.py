"""The loss by position."""

from softmap.claims._bases import LONG, ONE_CARD
from softmap.claims._claim import Arm, Asked, Claim, Measure, on

_STUDY = Asked(
    Measure("Loss by position"), (Arm("diff", "lower"), Arm("diff2")),
    suite="loss", reads="by_position", at="each",
)  # fmt: skip

CLAIM = Claim(
    sentence="DIFF has a lower loss at every position of a long context.",
    paper="Differential Transformer, section 3.3, figure 4",
    source="https://arxiv.org/abs/2410.05258",
    theirs="3B, 64k tokens, after a phase of longer windows; a figure alone",
    hypothesis="The loss of diff is lower in every bin of an octave.",
    protocol="Suite loss on held-out windows of the trained length. The phase of longer windows is "
    "left out, so long means the trained length here.",
    scales={
        "cpu": on(_STUDY, LONG),
        "gpu": on(_STUDY, ONE_CARD),
        "paper": "it takes a second phase of training at 64k tokens, which no recipe has yet",
    },
)

"""Learning in context."""

from softmap.claims._bases import ONE_CARD, PAPER_DIFF
from softmap.claims._claim import Arm, Asked, Claim, Learned, Measure, on

_ARMS = (Arm("diff", "higher"), Arm("diff2"))
_RIGHT = Measure("Values of shown keys recalled", "share", 0.02, "higher")
_LABELS = Measure("Right labels with the most shots", "share", 0.02, "higher")
_SHOTS = Asked(_LABELS, _ARMS, suite="shots", reads="most")

CLAIM = Claim(
    sentence="DIFF learns better from many examples in its context.",
    paper="Differential Transformer, section 3.5, figure 6",
    source="https://arxiv.org/abs/2410.05258",
    theirs="+18.0 TREC, +21.6 TREC-fine, +10.4 Banking-77, +5.2 Clinc-150 (accuracy, points)",
    hypothesis="diff is right more often.",
    protocol="Models of a CPU's size classify no text, so there the stand-in is associative "
    "recall: pairs of key and value, then each key once more, learned first (softmap learn "
    "recall). Larger ones are asked by the suite shots.",
    scales={
        "cpu": (Learned(_RIGHT, _ARMS, task="recall"),),
        "gpu": on(_SHOTS, ONE_CARD),
        "paper": on(_SHOTS, PAPER_DIFF),
    },
)

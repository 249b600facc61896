"""Low precision."""

from softmap.claims._bases import MEDIUM, ONE_CARD, PAPER_DIFF, SMALL
from softmap.claims._claim import Arm, Asked, Claim, Measure, on

_STUDY = Asked(
    Measure("Loss added by attention logits of 4 bits"), (Arm("diff", "lower"), Arm("diff2")),
    suite="bits", reads="logits",
)  # fmt: skip

CLAIM = Claim(
    sentence="The attention logits of DIFF survive few bits.",
    paper="Differential Transformer, section 3.7, figure 8",
    source="https://arxiv.org/abs/2410.05258",
    theirs="DIFF at 4 bits is as good as the Transformer at 6 (HellaSwag)",
    hypothesis="Rounding to 4 bits costs diff less loss.",
    protocol="Suite bits: logits rounded before the softmax, symmetric, a scale of the largest "
    "size for each row of a map (the paper does not say which).",
    scales={
        "cpu": on(_STUDY, SMALL, MEDIUM),
        "gpu": on(_STUDY, ONE_CARD),
        "paper": on(_STUDY, PAPER_DIFF),
    },
)

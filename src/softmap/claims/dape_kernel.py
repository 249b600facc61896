"""The kernel of DAPE."""

from softmap.claims._bases import ONE_CARD, PAPER_DAPE, SMALL
from softmap.claims._claim import Arm, Asked, Claim, Measure, on

_STUDY = Asked(
    Measure("Loss of the last tokens at 16 times the trained length", margin=0.03),
    (
        Arm("kerple", "higher"),
        Arm("dape(version=1)", "higher"),
        Arm("dape(kernel=5)", "equal"),
        Arm("dape(kernel=7)", "equal"),
        Arm("dape(hidden=10)"),
        Arm("dape(hidden=64)"),
    ),
    control="dape",
    suite="length",
    reads="loss",
    at="last",
)

CLAIM = Claim(
    sentence="DAPE gains by a kernel of 3; wider ones help little more.",
    paper="DAPE V2, section 4",
    source="https://arxiv.org/abs/2410.04798",
    theirs="trained at 128, perplexity at 8192: none 12.59, 1x1 4.97, 1x3 4.60, 1x7 4.57",
    hypothesis="Beside kernel 3: no convolution and kernel 1 higher, 5 and 7 equal within 0.03 "
    "nats.",
    protocol="Five rows over the same bias (KERPLE), read at 16 times the trained length as in "
    "dape-extra; beside them 10 and 64 hidden channels instead of 32.",
    scales={
        "cpu": on(_STUDY, SMALL),
        "gpu": on(_STUDY, ONE_CARD),
        "paper": on(_STUDY, PAPER_DAPE),
    },
)

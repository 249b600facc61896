"""The price of DIFF in training."""

from softmap.claims._bases import MEDIUM, ONE_CARD, PAPER_DIFF
from softmap.claims._claim import Arm, Claim, Measure, Timed, on

_STUDY = Timed(
    Measure("Tokens a second, over Transformer++", "x", 0.10, "higher"),
    (Arm("diff", "at least"), Arm("diff2")),
)

CLAIM = Claim(
    sentence="DIFF trains at nearly the speed of a Transformer.",
    paper="Differential Transformer, appendix A, table 7",
    source="https://arxiv.org/abs/2410.05258",
    theirs="6 to 10 % less forward and backward, at 3B and 13B",
    hypothesis="diff has at least 90 % of the speed.",
    protocol="A training step, the variants in turn within a process; as many processes as runs.",
    scales={
        "cpu": on(_STUDY, MEDIUM),
        "gpu": on(_STUDY, ONE_CARD),
        "paper": on(_STUDY, PAPER_DIFF),
    },
)

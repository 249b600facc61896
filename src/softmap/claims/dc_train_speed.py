"""The price of DCMHA in training."""

from softmap.claims._bases import MEDIUM, ONE_CARD, PAPER_DC
from softmap.claims._claim import Arm, Claim, Measure, Timed, on

_STUDY = Timed(
    Measure("Tokens a second, over Transformer++", "x", 0.255, "higher"),
    (Arm("dcmha(qk_norm=true)", "at least"),),
)

CLAIM = Claim(
    sentence="A DCFormer trains at three quarters or more of the speed of Transformer++.",
    paper="DCMHA, section 4.3, table 5",
    source="https://arxiv.org/abs/2405.08553",
    theirs="74.5 to 89.2 %",
    hypothesis="dcmha has at least 74.5 % of the speed.",
    protocol="A training step, the variants in turn within a process; as many processes as runs.",
    scales={
        "cpu": on(_STUDY, MEDIUM),
        "gpu": on(_STUDY, ONE_CARD),
        "paper": on(_STUDY, PAPER_DC),
    },
)

"""The switches of DIFF."""

from softmap.claims._bases import ONE_CARD, PAPER_DIFF, SMALL
from softmap.claims._claim import NEAR, Arm, Claim, Trained, on

_STUDY = Trained(
    NEAR,
    (
        Arm("transformer++", "higher"),
        Arm("diff(head_norm=false)", "higher"),
        Arm("diff(lambda_init=0.8)", "equal"),
        Arm("diff(lambda_init=0.5)", "equal"),
        Arm("diff2"),
    ),
    control="diff",
)

CLAIM = Claim(
    sentence="DIFF needs its head norm; the start of lambda hardly matters.",
    paper="Differential Transformer, section 3.8, table 6",
    source="https://arxiv.org/abs/2410.05258",
    theirs="3.062; without norm 3.122; lambda_init 0.8 3.065, 0.5 3.066; Transformer 3.087",
    hypothesis="Beside diff: without the head norm and Transformer++ higher, constant starts of "
    "lambda equal within 0.03 nats.",
    protocol="Six rows of one recipe: diff, its three switches, Transformer++ and diff2, which "
    "has no head norm.",
    scales={
        "cpu": on(_STUDY, SMALL),
        "gpu": on(_STUDY, ONE_CARD),
        "paper": on(_STUDY, PAPER_DIFF),
    },
)

"""Compute at equal loss."""

from softmap.claims._bases import MEDIUM, ONE_CARD, PAPER_DC, SMALL
from softmap.claims._claim import COMPUTE, Arm, Claim, Trained, on

_STUDY = Trained(
    COMPUTE,
    (Arm("dcmha(qk_norm=true)", "lower"), Arm("transformer++(qk_norm=true)")),
    reads="compute",
)

CLAIM = Claim(
    sentence="A DCFormer is worth 1.7 to 2 times the compute of a Transformer.",
    paper="DCMHA, section 4.1, figure 4",
    source="https://arxiv.org/abs/2405.08553",
    theirs="1.7 to 2.0 times, 405M to 6.9B",
    hypothesis="The ratio of FLOPs at equal loss is below 1.",
    protocol="One WSD-S run of each seed gives a loss at every budget; tokens at equal loss times "
    "the counted FLOPs a token. dcmha as released, with QK norm; the control with QK norm beside.",
    scales={
        "cpu": on(_STUDY, SMALL, MEDIUM),
        "gpu": on(_STUDY, ONE_CARD),
        "paper": on(_STUDY, PAPER_DC),
    },
)

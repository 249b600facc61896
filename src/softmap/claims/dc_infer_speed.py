"""The price of DCMHA in decoding."""

from softmap.claims._bases import MEDIUM, ONE_CARD
from softmap.claims._claim import Arm, Claim, Measure, Timed, on

_STUDY = Timed(
    Measure("Tokens a second, over Transformer++", "x", 0.189, "higher"),
    (Arm("dcmha(qk_norm=true)", "at least"),),
    what="decode",
)

CLAIM = Claim(
    sentence="A DCFormer infers at four fifths or more of the speed of Transformer++.",
    paper="DCMHA, section 4.3, table 5",
    source="https://arxiv.org/abs/2405.08553",
    theirs="81.1 to 89.7 % (1024 tokens in, 128 out)",
    hypothesis="dcmha has at least 81.1 % of the speed.",
    protocol="A prompt of 1024 tokens and 128 more with the cache, at width 256, the variants in "
    "turn within a process; as many processes as runs.",
    scales={
        "cpu": on(_STUDY, MEDIUM),
        "gpu": on(_STUDY, ONE_CARD),
        "paper": "softmap bench decode takes larger models; the ledger has one size yet",
    },
)

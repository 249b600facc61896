"""Lookup meets transform."""

from softmap.claims._bases import ONE_CARD, PAPER_DC
from softmap.claims._claim import Arm, Asked, Claim, Learned, Measure, on

_ARMS = (Arm("dcmha(qk_norm=true)", "higher"), Arm("transformer++(qk_norm=true)"))
_RIGHT = Measure("Answers right", "share", 0.02, "higher")
_TEXT = Asked(_RIGHT, _ARMS, suite="composition", reads="accuracy")

CLAIM = Claim(
    sentence="Models fail where the lookup of one head must meet the transform of another; "
    "dynamic composition helps.",
    paper="DCMHA, section 4.5",
    source="https://arxiv.org/abs/2405.08553",
    theirs="models up to 6B do badly",
    hypothesis="dcmha answers more questions right whose pair of lookup and transform it has "
    "never seen together.",
    protocol="On the CPU small models learn lookups and transforms among tokens; pairs of them are "
    "held out (softmap learn token_composition). Larger ones are asked in text; the authors' file "
    "is read by softmap eval --suite composition:FILE.",
    scales={
        "cpu": (Learned(_RIGHT, _ARMS, task="token_composition"),),
        "gpu": on(_TEXT, ONE_CARD),
        "paper": on(_TEXT, PAPER_DC),
    },
)

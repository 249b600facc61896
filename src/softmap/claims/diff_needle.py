"""Needles among others of their kind."""

from softmap.claims._bases import ONE_CARD, PAPER_DIFF
from softmap.claims._claim import Arm, Asked, Claim, Learned, Measure, on

_ARMS = (Arm("diff", "higher"), Arm("diff2"))
_FOUND = Measure("Needle found among 16", "share", 0.02, "higher")
_TEXT = Asked(
    Measure("Number found, one asked", "share", 0.02, "higher"), _ARMS,
    suite="needles", reads="found",
)  # fmt: skip

CLAIM = Claim(
    sentence="DIFF still retrieves when there are more needles.",
    paper="Differential Transformer, section 3.4, table 2",
    source="https://arxiv.org/abs/2410.05258",
    theirs="3B at 4K, 1, 2, 4, 6 needles: Transformer 1.00, .85, .62, .55; DIFF 1.00, .92, .84, "
    ".85",
    hypothesis="With the most needles diff finds more of them.",
    protocol="On the CPU small models learn the task itself (marked pairs in a hay of tokens, up "
    "to 8 of them, asked with 16). Larger ones are asked in text: cities and numbers, distinct "
    "cities, the number alone counts.",
    scales={
        "cpu": (Learned(_FOUND, _ARMS, task="token_needles", at="last"),),
        "gpu": on(_TEXT, ONE_CARD),
        "paper": on(_TEXT, PAPER_DIFF),
    },
)

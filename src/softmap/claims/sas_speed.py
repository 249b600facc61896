"""Simplified blocks are faster."""

from softmap.claims._bases import MEDIUM, ONE_CARD, PAPER_SAS
from softmap.claims._claim import Arm, Claim, Measure, Timed, on

_STUDY = Timed(
    Measure("Tokens a second, over Transformer++", "x", 0.02, "higher"),
    (Arm("sas", "higher"), Arm("sas-p", "higher")),
)

CLAIM = Claim(
    sentence="SAS and SAS-P train faster than a Pre-LN Transformer.",
    paper="Simplifying Transformer Blocks, section 4.4, table 1",
    source="https://arxiv.org/abs/2311.01906",
    theirs="13 % fewer parameters (18 blocks), speed 1.09 and 1.16; 15 % in the abstract",
    hypothesis="Both have more tokens a second.",
    protocol="A training step, the variants in turn within a process; as many processes as runs. "
    "All have one size here, so what the blocks save goes to their MLP: less is gained than with "
    "the authors' smaller blocks. docs/simplified-blocks.md has the parameters.",
    scales={
        "cpu": on(_STUDY, MEDIUM),
        "gpu": on(_STUDY, ONE_CARD),
        "paper": on(_STUDY, PAPER_SAS),
    },
)

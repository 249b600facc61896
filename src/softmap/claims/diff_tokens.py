"""Tokens at equal loss."""

from softmap.claims._bases import MEDIUM, ONE_CARD, PAPER_DIFF, SMALL
from softmap.claims._claim import TOKENS, Arm, Claim, Trained, on

_STUDY = Trained(TOKENS, (Arm("diff", "lower"), Arm("diff2")), reads="tokens")

CLAIM = Claim(
    sentence="DIFF reaches a Transformer's loss with fewer tokens.",
    paper="Differential Transformer, section 3.2, figure 3b",
    source="https://arxiv.org/abs/2410.05258",
    theirs="160B = 251B tokens (64 %)",
    hypothesis="The ratio of tokens at equal final loss is below 1; it excludes 1 exactly where "
    "the final losses are resolved.",
    protocol="One WSD-S run of each seed gives a loss at every budget; curves are straight over "
    "log tokens between them.",
    scales={
        "cpu": on(_STUDY, SMALL, MEDIUM),
        "gpu": on(_STUDY, ONE_CARD),
        "paper": on(_STUDY, PAPER_DIFF),
    },
)

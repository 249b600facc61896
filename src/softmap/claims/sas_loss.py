"""Simplified blocks train as well."""

from softmap.claims._bases import MEDIUM, ONE_CARD, PAPER_SAS, SMALL
from softmap.claims._claim import NEAR, Arm, Claim, Trained, on

_STUDY = Trained(NEAR, (Arm("sas", "at most"), Arm("sas-p", "at most")))

CLAIM = Claim(
    sentence="SAS and SAS-P match a Pre-LN Transformer update by update.",
    paper="Simplifying Transformer Blocks, section 4.4, figure 5",
    source="https://arxiv.org/abs/2311.01906",
    theirs="the curves overlap, 18 blocks",
    hypothesis="Neither ends higher than Transformer++ by 0.03 nats.",
    protocol="The loss after equal steps. All have one size, so the parameters that the blocks "
    "save go to their MLP; the authors' blocks are smaller.",
    scales={
        "cpu": on(_STUDY, SMALL, MEDIUM),
        "gpu": on(_STUDY, ONE_CARD),
        "paper": on(_STUDY, PAPER_SAS),
    },
)

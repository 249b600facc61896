"""Simplified blocks, deeper."""

from softmap.claims._bases import DEEP, ONE_CARD, PAPER_DEEP, Base
from softmap.claims._claim import NEAR, Arm, Asked, Claim, Measure, Trained

_ALIKE = Measure("Cosine similarity of tokens after the last block, untrained", "", 0.05)


def _on(base: Base) -> tuple[Asked | Trained, ...]:
    start = (Arm("sas", "at most"), Arm("sas-p", "at most"),
             Arm("transformer++(attention_skip=0)"))  # fmt: skip
    return (
        Asked(_ALIKE, start, base=base, suite="signal", reads="similarity", at="last",
              trained=False),
        Trained(NEAR, (Arm("sas", "at most"), Arm("sas-p", "at most")), base=base),
    )  # fmt: skip


CLAIM = Claim(
    sentence="SAS and SAS-P still train as well when they are deeper.",
    paper="Simplifying Transformer Blocks, section 4.4, figure 6",
    source="https://arxiv.org/abs/2311.01906",
    theirs="18 to 72 blocks",
    hypothesis="At four times the depth neither ends higher than Transformer++ by 0.03 nats, and "
    "their tokens are no more alike at the start.",
    protocol="The final loss with eight layers; beside it the suite signal on models before their "
    "first step: without a skip, and unshaped, tokens become alike with depth.",
    scales={"cpu": _on(DEEP), "gpu": _on(ONE_CARD), "paper": _on(PAPER_DEEP)},
)

"""Activation outliers."""

from softmap.claims._bases import MEDIUM, ONE_CARD, PAPER_DIFF, SMALL, Base
from softmap.claims._claim import Arm, Asked, Claim, Measure

_ARMS = (Arm("diff", "lower"), Arm("diff2"))


def _on(*bases: Base) -> tuple[Asked, ...]:
    return tuple(
        Asked(Measure(title, "", margin), _ARMS, base=base, suite="outliers", reads=reads)
        for base in bases
        for title, reads, margin in (
            ("Largest |attention logit|", "logit_max", 0.5), ("Largest |hidden|", "hidden_max", 0.1)
        )
    )  # fmt: skip


CLAIM = Claim(
    sentence="DIFF has smaller activation outliers.",
    paper="Differential Transformer, section 3.7, table 5",
    source="https://arxiv.org/abs/2410.05258",
    theirs="largest logit 318 to 38.8, largest hidden state 3608 to 1688",
    hypothesis="Both are smaller with diff.",
    protocol="Suite outliers: the largest attention logit and hidden state of each held-out window "
    "and layer, their mean.",
    scales={"cpu": _on(SMALL, MEDIUM), "gpu": _on(ONE_CARD), "paper": _on(PAPER_DIFF)},
)

"""The order of examples."""

from softmap.claims._bases import ONE_CARD, PAPER_DIFF, Base
from softmap.claims._claim import Arm, Asked, Claim, Measure

_ARMS = (Arm("diff", "lower"), Arm("diff2"))


def _on(base: Base) -> tuple[Asked, ...]:
    return tuple(
        Asked(
            Measure(f"Best minus worst, {title}", "share", 0.02), _ARMS, base=base, suite="order",
            reads=reads,
        )
        for title, reads in (
            ("random orders", "spread_random"), ("sorted by class", "spread_by_class")
        )
    )  # fmt: skip


CLAIM = Claim(
    sentence="With DIFF the order of the demonstrations matters less.",
    paper="Differential Transformer, section 3.5, figure 7",
    source="https://arxiv.org/abs/2410.05258",
    theirs="best minus worst, TREC: 19.0 to 4.0 (random), 56.7 to 13.4 (by class)",
    hypothesis="The spread of diff's accuracy over orders is smaller.",
    protocol="Suite order: ten orders of the same demonstrations, random and sorted by class.",
    scales={
        "cpu": "models of this size classify at chance, whose spread over orders says nothing",
        "gpu": _on(ONE_CARD),
        "paper": _on(PAPER_DIFF),
    },
)

"""Where attention goes."""

from softmap.claims._bases import LONG, ONE_CARD, PAPER_DIFF, Base
from softmap.claims._claim import Arm, Asked, Claim, Measure

_ANSWER = Measure("Attention on the answer", "share", 0.01, "higher")
_NOISE = Measure("Attention on all else", "share", 0.02)


def _on(base: Base) -> tuple[Asked, ...]:
    higher, lower = (Arm("diff", "higher"), Arm("diff2")), (Arm("diff", "lower"), Arm("diff2"))
    return (
        Asked(_ANSWER, higher, base=base, suite="allocation", reads="answer"),
        Asked(_NOISE, lower, base=base, suite="allocation", reads="noise"),
    )


CLAIM = Claim(
    sentence="With DIFF attention goes to the answer, not to the noise around it.",
    paper="Differential Transformer, section 3.4, table 3",
    source="https://arxiv.org/abs/2410.05258",
    theirs="needle at half depth: answer .03 to .31, noise .52 to .02",
    hypothesis="diff has a larger share of |weights| on the answer and a smaller one on the rest.",
    protocol="Suite allocation: the row of the token that is about to say the number, mean over "
    "layers and heads. Negative weights count by their size over the sum of sizes; the paper does "
    "not say how. Small models were trained on text alone and find no needle.",
    scales={"cpu": _on(LONG), "gpu": _on(ONE_CARD), "paper": _on(PAPER_DIFF)},
)

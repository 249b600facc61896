"""Length extrapolation."""

from softmap.claims._bases import MEDIUM, ONE_CARD, PAPER_DAPE, SMALL
from softmap.claims._claim import Arm, Asked, Claim, Measure, on

_STUDY = Asked(
    Measure("Loss of the last tokens at 16 times the trained length", margin=0.03),
    (
        Arm("transformer++", "higher"),
        Arm("alibi", "higher"),
        Arm("kerple", "higher"),
        Arm("fire", "higher"),
        Arm("dape(version=1)", "at least"),
    ),
    control="dape",
    suite="length",
    reads="loss",
    at="last",
)

CLAIM = Claim(
    sentence="Trained on short windows, DAPE reads inputs many times as long, better than the "
    "biases that it refines.",
    paper="DAPE V1 and V2",
    source="https://arxiv.org/abs/2410.04798",
    theirs="trained at 512, perplexity at 512 and 8192: Kerple 4.57, 9.08; V1 4.49, 3.70; V2 4.44, "
    "3.58; RoPE 256 at 4096",
    hypothesis="At 16 times the trained length RoPE, ALiBi, KERPLE and FIRE have a higher loss "
    "than dape, and V1 no lower one.",
    protocol="Suite length: the last 256 tokens (a quarter of the context, where that is fewer) "
    "after 1 to 16 times the context. The targets are the same at every length; the authors score "
    "others at each.",
    scales={
        "cpu": on(_STUDY, SMALL, MEDIUM),
        "gpu": on(_STUDY, ONE_CARD),
        "paper": on(_STUDY, PAPER_DAPE),
    },
)

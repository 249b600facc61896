"""Length extrapolation: the claim that DAPE is for."""

from softmap.claims._bases import SMALL
from softmap.claims._claim import Arm, Asked, Claim, Measure

_FAR = Measure("Loss of the last tokens at 16 times the trained length")
_ARMS = (
    Arm("transformer++", "higher"),
    Arm("kerple", "higher"),
    Arm("alibi", "higher"),
    Arm("fire", "higher"),
    Arm("dape(version=1)", "higher"),
)


def _on(base):
    return Asked(_FAR, _ARMS, control="dape", base=base, suite="length", reads="loss", at="last")


CLAIM = Claim(
    sentence="Trained on short windows, DAPE reads inputs many times as long, better than the "
    "position biases that it refines.",
    paper="DAPE V1 and V2",
    source="https://arxiv.org/abs/2410.04798",
    theirs="trained at 512, perplexity at 512 and 8192: Kerple 4.57, 9.08; V1 4.49, 3.70; V2 4.44, "
    "3.58; RoPE 256 at 4096",
    hypothesis="At 16 times the trained length dape has a lower loss than RoPE, ALiBi, KERPLE, "
    "FIRE and DAPE V1.",
    protocol="Suite length: the last 256 tokens (a quarter of the context, where that is fewer) "
    "after 1 to 16 times the context. The targets are the same at every length; the authors score "
    "others at each.",
    scales={"cpu": (_on(SMALL),), "gpu": "", "paper": ""},
)

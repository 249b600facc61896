"""Parameters at equal loss."""

from softmap.claims._claim import Claim

_WAITS = "it takes a sweep of sizes and a fit of L(N), which softmap scale is to bring"

CLAIM = Claim(
    sentence="DIFF reaches a Transformer's loss with fewer parameters.",
    paper="Differential Transformer, section 3.2, figure 3a",
    source="https://arxiv.org/abs/2410.05258",
    theirs="6.8B DIFF = 11B Transformer (62 %)",
    hypothesis="The ratio of parameters at equal loss is below 1.",
    protocol="Models of several sizes, L(N) fitted for each variant, the ratio with a bootstrap "
    "interval over seeds.",
    scales={"cpu": _WAITS, "gpu": _WAITS, "paper": _WAITS},
)

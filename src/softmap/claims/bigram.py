"""Certain and uncertain tokens."""

from softmap.claims._claim import Claim

_WAITS = "a bigram language of mixed certainty is to come"

CLAIM = Claim(
    sentence="Uncertain tokens make the steep hill and near-certain ones the river, so that decay "
    "helps the uncertain ones most.",
    paper="Understanding Warmup-Stable-Decay Learning Rates, section 4",
    source="https://arxiv.org/abs/2410.05192",
    theirs="figures",
    hypothesis="Through the decay the loss of uncertain tokens falls more than that of certain "
    "ones.",
    protocol="A bigram language in which each token has its own uncertainty of the next; loss by "
    "class of certainty through stable phase and decay, curvature by class.",
    scales={"cpu": _WAITS, "gpu": _WAITS, "paper": _WAITS},
)

"""The river valley."""

from softmap.claims._claim import Claim

_WAITS = "losses on lines between checkpoints and their sharpest directions are to come"

CLAIM = Claim(
    sentence="The stable phase moves along a river while it bounces between hills; the decay falls "
    "to the river.",
    paper="Understanding Warmup-Stable-Decay Learning Rates, sections 2 and 3",
    source="https://arxiv.org/abs/2410.05192",
    theirs="figures",
    hypothesis="Between checkpoints of the stable phase the loss has a bump or is flat, between "
    "decayed ones it falls; a decay moves mostly in sharp directions.",
    protocol="Loss on lines and planes between checkpoints before and after decay; sharpest "
    "directions by Lanczos.",
    scales={"cpu": _WAITS, "gpu": _WAITS, "paper": _WAITS},
)

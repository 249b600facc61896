"""A fault, not a variant."""

from softmap.claims._claim import Claim

_FAULT = (
    "the fault ships in no variant: softmap.testing's check of causality finds it bit for bit, and "
    "tests/testing/test_suite_catches.py plants it"
)

CLAIM = Claim(
    sentence="Without the causal zeroing of its input the convolution cheats.",
    paper="DAPE V2, section 3",
    source="https://arxiv.org/abs/2410.04798",
    theirs="perplexity falls to 1",
    hypothesis="A row that sees later keys predicts them.",
    protocol="Scores beyond the diagonal are left in place before the convolution.",
    scales={"cpu": _FAULT, "gpu": _FAULT, "paper": _FAULT},
)

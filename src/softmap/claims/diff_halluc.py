"""Hallucination."""

from softmap.claims._bases import ONE_CARD, PAPER_DIFF
from softmap.claims._claim import Arm, Asked, Claim, Measure, on

_STUDY = Asked(
    Measure("Answers right", "share", 0.02, "higher"), (Arm("diff", "higher"), Arm("diff2")),
    suite="halluc", reads="correct",
)  # fmt: skip

CLAIM = Claim(
    sentence="DIFF states fewer things that are not in its document.",
    paper="Differential Transformer, section 3.6, table 4",
    source="https://arxiv.org/abs/2410.05258",
    theirs="judged right: XSum .44 to .53, CNN/DM .32 to .41, MultiNews .42 to .61, Qasper .28 to "
    ".39, HotpotQA .36 to .46, 2Wiki .29 to .36",
    hypothesis="diff answers more questions right.",
    protocol="Suite halluc: documents of made-up facts, which state the answer or do not, so the "
    "truth is known. The authors' sets need a judge (softmap eval --suite halluc:FILE).",
    scales={
        "cpu": "models of this size answer no question about a document",
        "gpu": on(_STUDY, ONE_CARD),
        "paper": on(_STUDY, PAPER_DIFF),
    },
)

"""Downstream accuracy."""

from softmap.claims._bases import ONE_CARD, PAPER_DC
from softmap.claims._claim import Arm, Asked, Claim, Measure, on

_STUDY = Asked(
    Measure("Score of each task", "", 0.01, "higher"),
    (Arm("dcmha(qk_norm=true)", "higher"),),
    suite="lm_eval:lambada_openai,piqa,winogrande,arc_easy,sciq",
    reads="score",
)

CLAIM = Claim(
    sentence="At equal size a DCFormer is better downstream.",
    paper="DCMHA, section 4.2, table 4",
    source="https://arxiv.org/abs/2405.08553",
    theirs="DCPythia-6.9B is better than Pythia-12B",
    hypothesis="The mean score of dcmha is higher.",
    protocol="lm_eval's own harness, zero-shot, the first metric of each task.",
    scales={
        "cpu": "models of this size are at chance in every task of the harness",
        "gpu": on(_STUDY, ONE_CARD),
        "paper": on(_STUDY, PAPER_DC),
    },
)

"""Parameters at equal loss."""

from softmap.claims._bases import SIZES
from softmap.claims._claim import Arm, Claim, Measure, Scaled

_STUDY = Scaled(
    Measure("Parameters for equal loss", "x", 0.05), (Arm("diff", "lower"), Arm("diff2")),
    base=SIZES[0], sizes=SIZES,
)  # fmt: skip

CLAIM = Claim(
    sentence="DIFF reaches a Transformer's loss with fewer parameters.",
    paper="Differential Transformer, section 3.2, figure 3a",
    source="https://arxiv.org/abs/2410.05258",
    theirs="6.8B DIFF = 11B Transformer (62 %)",
    hypothesis="The ratio of parameters at equal loss is below 1.",
    protocol="softmap scale: L(N, D) fitted to four sizes of five budgets for each variant; the "
    "ratio at the control's largest size with a bootstrap interval over runs.",
    scales={
        "cpu": (_STUDY,),
        "gpu": "sizes of a GPU's scale take days of one card; softmap scale takes any sweep",
        "paper": "models of 830M to 13.1B parameters",
    },
)

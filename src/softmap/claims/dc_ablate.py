"""The switches of DCMHA."""

from softmap.claims._bases import SMALL
from softmap.claims._claim import LOSS, Arm, Claim, Trained

_FULL = "dcmha(qk_norm=true)"
CLAIM = Claim(
    sentence="Dynamic composition beats static; low-rank terms beat gates; query-wise or key-wise "
    "alone is nearly enough; after the softmax beats before it; a small rank is enough; local "
    "layers make it cheap.",
    paper="DCMHA",
    source="https://arxiv.org/abs/2405.08553",
    theirs="in words",
    hypothesis="x",
    protocol="x",
    scales={
        "cpu": (
            Trained(
                LOSS,
                (
                    Arm("transformer++(qk_norm=true)", "higher"),
                    Arm("dcmha(gates=false,qk_norm=true)", "equal"),
                ),
                control=_FULL,
                base=SMALL,
            ),
        ),
        "gpu": "",
        "paper": "",
    },
)

"""Certain and uncertain tokens."""

from softmap.claims._claim import Arm, Claim, Learned, Measure

_TOY = "the language is a toy of 80 tokens, which small models learn"


def _study(reads: str, title: str, margin: float) -> Learned:
    return Learned(
        Measure(title, "nats", margin, "higher"),
        (Arm("successors 16", "higher"), Arm("successors 4")),
        control="successors 1", task="bigram", reads=reads, within="successors",
    )  # fmt: skip


CLAIM = Claim(
    sentence="Uncertain tokens make the steep hill and near-certain ones the river, so that decay "
    "helps the uncertain ones most.",
    paper="Understanding Warmup-Stable-Decay Learning Rates, section 4",
    source="https://arxiv.org/abs/2410.05192",
    theirs="figures",
    hypothesis="Through the last decay the loss behind tokens of 16 successors falls more than "
    "behind those of one, and the largest curvature of its loss is larger.",
    protocol="Suite bigram: a language in which each token has its own uncertainty of the next; "
    "what the last decay took by class, and the largest eigenvalue of the Hessian of each class's "
    "loss at the last decayed point.",
    scales={
        "cpu": (
            _study("fall", "Loss lost in the last decay", 0.005),
            _study("curvature", "Largest curvature", 0.1),
        ),
        "gpu": _TOY,
        "paper": _TOY,
    },
)

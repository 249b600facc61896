"""One run for several budgets."""

from softmap.claims import _bases as bases
from softmap.claims._bases import Base
from softmap.claims._claim import NEAR, Arm, Claim, Trained

_PLAIN = "transformer++"


def _on(base: Base, wsd: Base, cyclic: Base, oracle: Base) -> tuple[Trained, ...]:
    arms = (
        Arm(_PLAIN, "at least", label="wsd", base=wsd),
        Arm(_PLAIN, "higher", label="cyclic cosine", base=cyclic),
        Arm(_PLAIN, "at least", label="a cosine for each budget", base=oracle),
    )
    return (Trained(NEAR, arms, control=_PLAIN, base=base),)


CLAIM = Claim(
    sentence="One WSD-S run serves several budgets, better than WSD and cyclic cosine at equal "
    "compute and near a cosine run for each budget.",
    paper="Understanding Warmup-Stable-Decay Learning Rates, section 5",
    source="https://arxiv.org/abs/2410.05192",
    theirs="0.1B to 1.2B parameters, 50B, 100B and 200B tokens",
    hypothesis="At the last budget: WSD no lower than WSD-S by 0.03 nats, cyclic cosine higher, "
    "the cosine run no lower by 0.03.",
    protocol="The control trained by each schedule. WSD discards its decays, so it gets fewer "
    "steps for the same compute; the cosine runs together take nearly twice as many. All have the "
    "peak that was tuned for WSD-S, which favours it.",
    scales={
        "cpu": _on(bases.SMALL, bases.WSD, bases.CYCLIC, bases.ORACLE),
        "gpu": "bases of the other schedules are to be written for one card",
        "paper": _on(
            bases.PAPER_WSDS, bases.PAPER_WSD, bases.PAPER_CYCLIC, bases.PAPER_ORACLE
        ),
    },
)  # fmt: skip

"""Ours: two edits at once."""

from softmap.claims._bases import ONE_CARD, SMALL
from softmap.claims._claim import LOSS, Arm, Claim, Trained, on

_DC = "dcmha(qk_norm=true)"
_PAIRS = (("diff", _DC), ("dape", "diff"), ("sas", _DC), ("dape", _DC), ("dape", "sas"),
          ("dape", "diff2"))  # fmt: skip
_PARTS = tuple(Arm(name) for name in ("diff", "diff2", _DC, "dape", "sas"))
_STUDY = Trained(
    LOSS,
    _PARTS
    + tuple(
        Arm(f"{one}+{other}", "lower", against=part)
        for one, other in _PAIRS
        for part in (one, other)
    ),
)

CLAIM = Claim(
    sentence="What two methods gain adds up: a pair of them is better than either.",
    paper="none: our own question",
    source="https://arxiv.org/abs/2410.05258",
    theirs="none",
    hypothesis="Each pair ends with a lower loss than either of its parts.",
    protocol="Six pairs, all of one size. A pair takes the smaller of its parts' tuned peaks.",
    scales={
        "cpu": on(_STUDY, SMALL),
        "gpu": on(_STUDY, ONE_CARD),
        "paper": "nobody has published it",
    },
)

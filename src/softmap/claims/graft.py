"""Edits put into a model that was trained without."""

from softmap.claims._claim import Claim

_WAITS = "it takes softmap graft, which is to come"

CLAIM = Claim(
    sentence="An edited map helps a model that was trained with plain attention.",
    paper="asked by a reader of the papers; nobody claims it",
    source="https://openreview.net/forum?id=OvoCm1gGhN",
    theirs="nobody's",
    hypothesis="After as many steps of fine-tuning from the same model, the grafted one has the "
    "lower loss.",
    protocol="A map is edited without changing the function at step 0, then fine-tuned; plain "
    "fine-tuning beside it, equal steps and seeds.",
    scales={"cpu": _WAITS, "gpu": _WAITS, "paper": "nobody has published it"},
)

"""DIFF V2."""

from softmap.claims._bases import MEDIUM, ONE_CARD, PAPER_DIFF, SMALL, Base
from softmap.claims._claim import LOSS, Arm, Claim, Measure, Timed, Trained

_SPEED = Measure("Decoded tokens a second, over Transformer++", "x", 0.10, "higher")


def _on(*bases: Base) -> tuple[Trained | Timed, ...]:
    return tuple(
        study
        for base in bases
        for study in (
            Trained(LOSS, (Arm("diff2", "lower"), Arm("diff")), base=base),
            Timed(_SPEED, (Arm("diff2", "at least"), Arm("diff")), base=base, what="decode"),
        )
    )


CLAIM = Claim(
    sentence="DIFF V2 has a lower loss than a Transformer and decodes as fast.",
    paper="Differential Transformer V2 (blog of 20 January 2026)",
    source="https://huggingface.co/blog/microsoft/diff-attn-v2",
    theirs="0.02 to 0.03 nats at 1T tokens",
    hypothesis="diff2 ends with a lower loss, and has at least 90 % of the decoding speed.",
    protocol="The final loss; beside it a prompt of 1024 tokens and 128 more with the cache, at "
    "width 256.",
    scales={"cpu": _on(SMALL, MEDIUM), "gpu": _on(ONE_CARD), "paper": _on(PAPER_DIFF)},
)

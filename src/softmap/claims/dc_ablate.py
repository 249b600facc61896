"""The switches of DCMHA."""

from softmap.claims._bases import ONE_CARD, PAPER_DC, SMALL, Base
from softmap.claims._claim import NEAR, Arm, Claim, Expects, Trained

_FULL = "dcmha(qk_norm=true)"


def _dc(options: str, label: str, expects: Expects = "", against: str | None = None) -> Arm:
    return Arm(f"dcmha({options},qk_norm=true)", expects, against, label)


def _on(base: Base, window: int, ranks: list[int]) -> tuple[Trained, ...]:
    arms = (
        Arm("transformer++(qk_norm=true)", "higher"),
        _dc("static=true,query=false,key=false", "static only", "higher"),
        _dc("key=false", "query-wise only", "equal"),
        _dc("query=false", "key-wise only", "equal"),
        _dc("low_rank=false", "gates only", "higher"),
        _dc("gates=false", "low-rank only", "equal"),
        _dc("post=false", "pre only", "higher", against="post only"),
        _dc("pre=false", "post only"),
        *(_dc(f"rank={rank}", f"rank {rank}", "equal") for rank in ranks),
        _dc(f"pattern=LG,window={window}", "local and global layers", "equal"),
    )
    return (Trained(NEAR, arms, control=_FULL, base=base),)


CLAIM = Claim(
    sentence="Dynamic composition beats static; low-rank terms beat gates; query-wise or key-wise "
    "alone is nearly enough; after the softmax beats before it; a small rank is enough; local "
    "layers by turns cost little.",
    paper="DCMHA, section 4.4, table 6",
    source="https://arxiv.org/abs/2405.08553",
    theirs="in words",
    hypothesis="Beside dcmha: static only and gates only higher; query-wise only, key-wise only, "
    "low-rank only, rank 1 and 4, and local layers equal within 0.03 nats; pre only above post "
    "only.",
    protocol="Ten rows of switches, each in the released form with QK norm, Transformer++ with QK "
    "norm beside them. A local layer sees a quarter of the window. Rank 4 has no room in the "
    "smallest models, whose size all rows have.",
    scales={
        "cpu": _on(SMALL, 32, [1]),
        "gpu": _on(ONE_CARD, 256, [1, 4]),
        "paper": _on(PAPER_DC, 256, [1, 4]),
    },
)

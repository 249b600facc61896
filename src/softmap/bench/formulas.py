"""The arithmetic as formulas for people. A test holds them equal to ``arithmetic``.

Operations at one visible (i, j), all heads, in H (heads), d (head width), R (rank), M and k (hidden
channels and width of DAPE's convolution), B (sequences that share a bias). Numbers per token for
memory: what a token's row of each tensor holds.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """products, vector and exp of one direction."""

    products: str
    vector: str
    exp: str


class Operator(NamedTuple):
    """Formulas of one variant. variant: as ``softmap.variants.load`` takes it.

    inputs: numbers a token that the forward pass reads; cached: numbers a key that decoding reads.
    """

    title: str
    variant: str
    streamed: tuple[Row, Row]
    held: tuple[Row, Row]
    inputs: str
    cached: str


PLAIN = (Row("4*H*d", "4*H", "H"), Row("10*H*d", "4*H", "H"))
DAPE = (
    Row("4*H*d + 4*H*M*k + 2*H*M*k/B", "6*H + 3*M + H/B", "H"),
    Row("10*H*d + 12*H*M*k + 4*H*M*k/B", "10*H + 9*M + 2*H/B", "H"),
)
KERPLE = (Row("4*H*d", "5*H", "H"), Row("10*H*d", "6*H", "H"))
ALIBI = (Row("4*H*d", "6*H", "H"), Row("10*H*d", "6*H", "H"))
FIRE = (
    Row("4*H*d + 64*H/B", "5*H + 96/B", "H + 1/B"),
    Row("10*H*d + 192*H/B", "7*H + 288/B", "H + 3/B"),
)

OPERATORS = (
    Operator("softmax attention", "transformer++", PLAIN, PLAIN, "3*H*d", "2*H*d"),
    Operator(
        "diff", "diff",
        (Row("6*H*d", "4*H", "H"), Row("10*H*d", "6*H", "H")),
        (Row("4*H*d", "5*H", "H"), Row("10*H*d", "6*H", "H")),
        "3*H*d", "2*H*d",
    ),
    Operator(
        "diff2 (2H maps)", "diff2",
        (Row("8*H*d", "8*H", "2*H"), Row("16*H*d", "12*H", "2*H")),
        (Row("6*H*d", "10*H", "2*H"), Row("16*H*d", "12*H", "2*H")),
        "4*H*d + H", "2*H*d",
    ),
    Operator("Shaped (sas)", "sas", PLAIN, PLAIN, "3*H*d", "2*H*d"),
    Operator(
        "talking heads", "talking-heads",
        (Row("6*H*d + 6*H*H", "6*H", "2*H"), Row("14*H*d + 16*H*H", "8*H", "2*H")),
        (Row("4*H*d + 4*H*H", "4*H", "H"), Row("10*H*d + 12*H*H", "6*H", "H")),
        "3*H*d", "2*H*d",
    ),
    Operator(
        "dcmha", "dcmha",
        (
            Row("6*H*d", "18*H + 24*H*R", "2*H"),
            Row("14*H*d", "40*H + 64*H*R", "2*H"),
        ),
        (
            Row("4*H*d", "12*H + 16*H*R", "H"),
            Row("10*H*d", "30*H + 48*H*R", "H"),
        ),
        "3*H*d + 8*R*H + 4*H", "2*H*d + 4*R*H + 2*H",
    ),
    Operator("dape V2 (kerple)", "dape", DAPE, DAPE, "3*H*d", "2*H*d"),
    Operator("dape V1 (k = 1)", "dape(version=1)", DAPE, DAPE, "3*H*d", "2*H*d"),
    Operator("alibi", "alibi", ALIBI, ALIBI, "3*H*d", "2*H*d"),
    Operator("kerple", "kerple", KERPLE, KERPLE, "3*H*d", "2*H*d"),
    Operator("fire", "fire", FIRE, FIRE, "3*H*d", "2*H*d"),
)  # fmt: skip


def shown(formula: str) -> str:
    """``6*H*d + 6*H*H`` as ``6Hd + 6H²``."""
    return formula.replace("H*H", "H²").replace("*", "")

"""Which edits have tile code, and how their tensors are handed to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from softmap.ops.triton import compose, fire, low_rank, scores, weights


@dataclass(frozen=True)
class TileEdit:
    """Tile code of one ``Edit.kernel``.

    Attributes:
        forward, adjoint: ``triton.jit`` functions.
        tensors: names of the edit's tensors in the order of the bundles that both take; those that
            an edit lacks are None.
        extras: tensors of the call that follow them (rows, cols: positions; count: keys that each
            row sees).
        mixes: reads several heads of one cell, so all of them must be in the tile: it takes not its
            tensors but the matrices over the heads that ``matrices`` makes of them.
        halves: half as many maps leave as enter.
        together: its adjoint adds up the gradients of all of its tensors, or none.
    """

    forward: Any
    adjoint: Any
    tensors: tuple[str, ...]
    extras: tuple[str, ...] = ()
    mixes: bool = False
    halves: bool = False
    together: bool = False


LOW_RANK = ("row", "row_gain", "col", "col_gain", "row_map", "col_map")

EDITS: dict[str, TileEdit] = {
    "compose": TileEdit(compose.compose, compose.compose_adjoint, (), mixes=True),
    "head_mix": TileEdit(compose.compose, compose.compose_adjoint, (), mixes=True),
    "low_rank_scores": TileEdit(low_rank.scores, low_rank.scores_adjoint, LOW_RANK),
    "low_rank_weights": TileEdit(low_rank.weights, low_rank.weights_adjoint, LOW_RANK),
    "subtract_pairs": TileEdit(
        weights.subtract_pairs, weights.subtract_pairs_adjoint, ("lambda",), halves=True
    ),
    "shaped": TileEdit(
        weights.shaped, weights.shaped_adjoint, ("alpha", "beta", "gamma"), ("count",)
    ),
    "temperature": TileEdit(scores.temperature, scores.temperature_adjoint, ("tau",)),
    "alibi": TileEdit(scores.alibi, scores.alibi_adjoint, ("slopes",), ("rows", "cols")),
    "kerple": TileEdit(scores.kerple, scores.kerple_adjoint, ("p", "a"), ("rows", "cols")),
    "fire": TileEdit(
        fire.fire, fire.fire_adjoint, ("w1", "b1", "w2", "b2", "c", "length"), ("rows", "cols"),
        together=True,
    ),
}  # fmt: skip


def options(kernel: str, heads: int, tensors: dict[str, Any], exact: bool) -> int:
    """Returns the constants of the tile code, heads + 256 a + 65536 b, as one number for Triton
    3.6.

    a: whether mixes over heads are exact float32 products; of pairs, whether lambda is per token.
    b: FIRE's hidden units; the rank of a composition.
    """
    a, b = int(exact), 0
    if kernel == "subtract_pairs":
        a = int(tensors["lambda"].ndim > 0)
    elif kernel == "fire":
        b = tensors["b1"].shape[0]
    elif kernel.startswith("low_rank"):
        b = max([tensors[n].shape[1] for n in ("row", "col") if n in tensors], default=0)
    return heads + 256 * a + 65536 * b

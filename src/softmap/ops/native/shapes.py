"""The shapes that native kernels read an edit's tensors by: others would be read past their end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from softmap.maps import Tensors
from softmap.ops.call import Call

# By kernel and name. H: maps that enter, P: half of them, M, N: hidden units, K: taps, R: ranks,
# X: channels of a convolution (H or 2H), T, S: tokens (after the axis of sequences). "?": optional.
_LAYER = {
    "temperature": {"tau": "H"},
    "head_mix": {"mix": "H H"},
    "subtract_pairs": {"lambda?": ""},
    "shaped": {"alpha": "H", "beta": "H", "gamma?": "H"},
    "compose": {"static?": "H H"},
    "alibi": {"slopes": "H"},
    "kerple": {"p": "H", "a": "H"},
    "fire": {"w1": "N 1", "b1": "N", "w2": "H N", "b2": "H", "c": "", "length": ""},
    "score_conv": {"w1": "M X 1 K", "b1": "M", "w2": "H M 1 K", "b2": "H"},
}
_QUERY = {
    "subtract_pairs": {"lambda?": "T P"},
    "compose": {"q1?": "T R H", "q2?": "T R H", "qg?": "T H"},
}
_KEY = {"compose": {"k1?": "S R H", "k2?": "S R H", "kg?": "S H"}}
_TOGETHER = (("q1", "q2"), ("k1", "k2"))

Shapes = dict[str, list[str]]


class Expected(NamedTuple):
    """Shapes in letters of all tensors of each kind, and the names of those that must be there."""

    shapes: tuple[Shapes, Shapes, Shapes]
    needed: frozenset[str]


@cache
def expected(kernel: str) -> Expected:
    """Of a kernel, or of a convolution and its bias, ``score_conv+fire``."""
    base, _, bias = kernel.partition("+")
    layer = _LAYER.get(base, {}) | {f"bias.{n}": s for n, s in _LAYER.get(bias, {}).items()}
    kinds = (layer, _QUERY.get(base, {}), _KEY.get(base, {}))
    shapes = [{n.rstrip("?"): shape.split() for n, shape in kind.items()} for kind in kinds]
    needed = frozenset(n for kind in kinds for n in kind if not n.endswith("?"))
    return Expected((shapes[0], shapes[1], shapes[2]), needed)


def wrong(kernel: str, group: Tensors, maps: int, call: Call) -> str | None:
    """What of the tensors of an edit that ``maps`` maps enter is not as its kernel reads it."""
    shapes, needed = expected(kernel)
    letters = {"H": maps, "P": maps // 2, "T": call.queries, "S": call.keys, "1": 1}
    letters["X"] = 2 * maps if "+" in kernel else maps
    for known, given, skip in zip(shapes, group, (0, 1, 1), strict=True):
        for name, t in given.items():
            if name not in known:
                return f"its kernel knows no tensor {name!r}"
            if not _fits(known[name], t.shape[skip:], letters):
                want = ", ".join(["B"][:skip] + known[name])
                return f"its tensor {name!r} must be ({want}), found {tuple(t.shape)}"
    names = group.layer.keys() | group.query.keys() | group.key.keys()
    if not needed <= names or any((a in names) != (b in names) for a, b in _TOGETHER):
        return f"its kernel needs more tensors than {', '.join(sorted(names)) or 'none'}"
    return None if kernel != "subtract_pairs" or names else "its kernel needs a lambda"


def _fits(letters: list[str], shape: Sequence[int], sizes: dict[str, int]) -> bool:
    if not letters:  # one number
        return math.prod(shape) == 1 and len(shape) < 2
    return len(letters) == len(shape) and all(
        sizes.setdefault(letter, size) == size for letter, size in zip(letters, shape, strict=True)
    )

"""The shapes of the edits' tensors that native kernels read: others would be read past their
end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import NamedTuple

from softmap.maps import Tensors

# By kernel and name. H: maps that enter, P: half of them, M, N: hidden units, K: taps, R: ranks,
# X: channels of a convolution (H or 2H). Without the axes of sequences and tokens. "?": optional.
_LAYER = {
    "temperature": {"tau": "H"},
    "head_mix": {"mix": "H H"},
    "softcap": {"cap": ""},
    "subtract_pairs": {"lambda?": ""},
    "shaped": {"alpha": "H", "beta": "H", "gamma?": "H"},
    "compose": {"static?": "H H"},
    "alibi": {"slopes": "H"},
    "kerple": {"p": "H", "a": "H"},
    "fire": {"w1": "N 1", "b1": "N", "w2": "H N", "b2": "H", "c": "", "length": ""},
    "score_conv": {"w1": "M X 1 K", "b1": "M", "w2": "H M 1 K", "b2": "H"},
}
_QUERY = {
    "subtract_pairs": {"lambda?": "P"},
    "compose": {"q1?": "R H", "q2?": "R H", "qg?": "H"},
}
_KEY = {"compose": {"k1?": "R H", "k2?": "R H", "kg?": "H"}, "forget": {"log_f": "H"}}
_TOGETHER = (("q1", "q2"), ("k1", "k2"))

_SKIP = (0, 2, 2)  # axes of sequences and tokens: of the layer's, the queries', the keys' tensors

Shapes = dict[str, list[str]]
Named = tuple[tuple[str, tuple[int, ...]], ...]


class Expected(NamedTuple):
    """Shapes, in letters, of all tensors of each kind, and the names of those that are required."""

    shapes: tuple[Shapes, Shapes, Shapes]
    needed: frozenset[str]


@cache
def expected(kernel: str) -> Expected:
    """Returns the shapes of a kernel, or of a convolution and its bias, ``score_conv+fire``."""
    base, _, bias = kernel.partition("+")
    layer = _LAYER.get(base, {}) | {f"bias.{n}": s for n, s in _LAYER.get(bias, {}).items()}
    kinds = (layer, _QUERY.get(base, {}), _KEY.get(base, {}))
    shapes = [{n.rstrip("?"): shape.split() for n, shape in kind.items()} for kind in kinds]
    needed = frozenset(n for kind in kinds for n in kind if not n.endswith("?"))
    return Expected((shapes[0], shapes[1], shapes[2]), needed)


def wrong(kernel: str, group: Tensors, maps: int) -> str | None:
    """Returns which tensor of an edit that ``maps`` maps enter is not as its kernel reads it,
    or None. The axes of sequences and tokens have been checked before.
    """
    shapes = tuple(
        tuple((name, tuple(t.shape[skip:])) for name, t in given.items())
        for given, skip in zip(group, _SKIP, strict=True)
    )
    return _wrong(kernel, shapes, maps)


@lru_cache(maxsize=1024)  # decoding asks the same for each token
def _wrong(kernel: str, group: tuple[Named, ...], maps: int) -> str | None:
    shapes, needed = expected(kernel)
    letters = {"H": maps, "P": maps // 2, "1": 1, "X": 2 * maps if "+" in kernel else maps}
    for known, given, skip in zip(shapes, group, _SKIP, strict=True):
        for name, shape in given:
            if name not in known:
                return f"its kernel knows no tensor {name!r}"
            if not _fits(known[name], shape, letters):
                want, found = (
                    ", ".join(["B", "T"][:skip] + [str(n) for n in axes])
                    for axes in (known[name], shape)
                )
                return f"its tensor {name!r} must be ({want}), found ({found})"
    names = {name for given in group for name, _ in given}
    if not needed <= names or any((a in names) != (b in names) for a, b in _TOGETHER):
        return f"its kernel needs more tensors than {', '.join(sorted(names)) or 'none'}"
    return None if kernel != "subtract_pairs" or names else "its kernel needs a lambda"


def _fits(letters: list[str], shape: Sequence[int], sizes: dict[str, int]) -> bool:
    if not letters:  # one number
        return math.prod(shape) == 1 and len(shape) < 2
    return len(letters) == len(shape) and all(
        sizes.setdefault(letter, size) == size for letter, size in zip(letters, shape, strict=True)
    )

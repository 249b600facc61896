"""How maps, keys, values and outputs are paired: one rule for every head layout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from softmap.errors import SoftmapError


@dataclass(frozen=True)
class Heads:
    """The head counts of an attention call.

    Output head h is made of maps h*r .. h*r+r-1 (r = maps/outputs) and reads value group g = h //
    (outputs/values). A value group owns c = keys/values key heads, and map s of its output head
    uses key g*c + s % c. Plain GQA, the paired key halves of diff (c = 2, arXiv 2410.05258) and the
    shared key of diff2 (c = 1) all follow from this rule.

    Attributes:
        maps: query heads, one map each.
        keys: key heads.
        values: value heads.
        outputs: maps left after the weights edits.
    """

    maps: int
    keys: int
    values: int
    outputs: int

    def __post_init__(self) -> None:
        for big, small, what in (
            (self.maps, self.outputs, "query heads must be a multiple of the output heads"),
            (self.outputs, self.values, "output heads must be a multiple of the value heads"),
            (self.keys, self.values, "key heads must be a multiple of the value heads"),
            (self.maps, self.keys, "query heads must be a multiple of the key heads"),
            (
                self.maps // max(self.outputs, 1),
                self.keys // max(self.values, 1),
                "maps of an output head must be a multiple of a value's key heads",
            ),
        ):
            if small < 1 or big % small:
                raise SoftmapError(
                    f"{what}: found {big} and {small} (queries {self.maps}, keys {self.keys}, "
                    f"values {self.values}, outputs {self.outputs})"
                )

    # Not cached: Python 3.11 would lock, which torch.compile cannot trace.
    @property
    def key_of_map(self) -> list[int]:
        """The key head that each map reads."""
        r, c = self.maps // self.outputs, self.keys // self.values
        group = self.outputs // self.values
        return [(m // r // group) * c + (m % r) % c for m in range(self.maps)]

    @property
    def by_key(self) -> list[int] | None:
        """The order of the maps in which those of a key head are neighbours; None if they are."""
        key = self.key_of_map
        if key == sorted(key):
            return None
        return sorted(range(self.maps), key=lambda m: key[m])

    @property
    def from_key(self) -> list[int] | None:
        """The inverse of [`by_key`][]."""
        order = self.by_key
        return None if order is None else sorted(range(self.maps), key=lambda m: order[m])


def scores(q_BHRd: Tensor, k_BGCd: Tensor, heads: Heads, scale: float) -> Tensor:
    """Returns scaled products (B, H, R, C) of each map with its key head, without copying keys
    per map.

    Those of float16 are float32, since scores beyond 65504 are not rare.
    """
    B, H, R, _ = q_BHRd.shape
    if q_BHRd.dtype == torch.float16:
        q_BHRd, k_BGCd = q_BHRd.float(), k_BGCd.float()
    q = _of_key(q_BHRd * scale, heads)
    s = torch.matmul(q, k_BGCd.transpose(-1, -2)).view(B, H, R, k_BGCd.shape[2])
    return s if heads.from_key is None else s[:, heads.from_key]


def add_scores_gradient(
    dq: Tensor | None,
    dk: Tensor | None,
    ds: Tensor,
    q: Tensor,
    k: Tensor,
    heads: Heads,
    scale: float,
) -> None:
    """Add the adjoint of [`scores`][] to ``dq`` (B, H, R, d) and ``dk`` (B, G, C, d)."""
    ds = _of_key(ds, heads)
    if dq is not None and heads.maps == heads.keys:
        _add_product(dq, ds, k, scale)
    elif dq is not None:
        g = torch.matmul(ds, k).view(q.shape)
        dq.add_(g if heads.from_key is None else g[:, heads.from_key], alpha=scale)
    if dk is not None:
        _add_product(dk, ds.transpose(-1, -2), _of_key(q, heads), scale)


def _of_key(m: Tensor, heads: Heads) -> Tensor:
    """Returns (B, H, R, n) as (B, keys, H / keys * R, n): the rows that meet one key head."""
    B, H, R, n = m.shape
    m = m if heads.by_key is None else m[:, heads.by_key]
    return m.reshape(B, heads.keys, H // heads.keys * R, n)


def combine(w_BHRC: Tensor, v_BGCd: Tensor, heads: Heads) -> Tensor:
    """Returns the weights of each output head applied to its value head, (B, H, R, d)."""
    B, H, R, _ = w_BHRC.shape
    w = _of_value(w_BHRC, heads)
    return torch.matmul(w.to(v_BGCd.dtype), v_BGCd).view(B, H, R, v_BGCd.shape[-1])


def weights_gradient(do: Tensor, v: Tensor, heads: Heads) -> Tensor:
    """Returns the adjoint of [`combine`][] for the weights, (B, H, R, C)."""
    B, H, R, _ = do.shape
    return torch.matmul(_of_value(do, heads), v.transpose(-1, -2)).view(B, H, R, v.shape[2])


def add_values_gradient(dv: Tensor, w: Tensor, do: Tensor, heads: Heads) -> None:
    """Add the adjoint of [`combine`][] for the values to ``dv`` (B, G, C, d)."""
    w = _of_value(w.to(do.dtype), heads)
    _add_product(dv, w.transpose(-1, -2), _of_value(do, heads))


def _of_value(m: Tensor, heads: Heads) -> Tensor:
    B, H, R, n = m.shape
    return m.reshape(B, heads.values, H // heads.values * R, n)


def _add_product(to: Tensor, a: Tensor, b: Tensor, scale: float = 1.0) -> None:
    """Compute to += scale * a @ b in place, which saves a copy."""
    if to.dtype != a.dtype or not _one_batch(to):
        to.add_(torch.matmul(a, b), alpha=scale)
    else:
        to.flatten(0, 1).baddbmm_(a.flatten(0, 1), b.flatten(0, 1), alpha=scale)


def _one_batch(t: Tensor) -> bool:
    """Whether the first two axes can be merged without a copy."""
    return t.shape[0] == 1 or t.stride(0) == t.shape[1] * t.stride(1)


def per_map(v_BGTd: Tensor, maps: int) -> Tensor:
    """Returns value heads repeated for ``maps`` maps, (B, maps, T, d)."""
    times = maps // v_BGTd.shape[1]
    return v_BGTd if times == 1 else v_BGTd.repeat_interleave(times, dim=1)

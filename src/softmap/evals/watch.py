"""Adds edits after those of every attention layer of a model, to observe its maps or to change its
inputs.

The edits run on the backends, so maps are seen in bands of rows and never kept whole. Softmap's
layers take them as further edits; in other models of transformers the attention function is
replaced, which all that follow its interface allow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from softmap.errors import SoftmapError
from softmap.maps import Band, Edit
from softmap.nn import Attention
from softmap.ops import attention

NAME = "softmap_watched"
Make = Callable[[int], list[Edit]]
Change = Callable[[Tensor], Tensor]
See = Callable[[int, Tensor, Tensor, Tensor, Tensor], None]


class Watch(Edit):
    """Passes each row of the map once to ``see(layer, m, visible, rows, cols)``, and changes
    nothing.

    m (H, R, C) and visible (R, C) are the band's rows that were not seen before, rows (R,) and cols
    (C,) their indices. A row of a band's halo was seen with an earlier band. It watches one
    sequence at a time: call [`begin`][] before each.
    """

    keeps_zeros = True

    def __init__(self, stage: str, layer: int, see: See) -> None:
        super().__init__()
        self.stage, self.layer, self.see, self.next = stage, layer, see, 0

    def begin(self) -> None:
        """Begin a new sequence."""
        self.next = 0

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns the map unchanged, after passing on its new rows."""
        rows, cols = band.rows[0], band.cols[0]
        if m.shape[0] != 1:
            raise SoftmapError(f"maps are watched one sequence at a time, found {m.shape[0]}")
        fresh = rows >= self.next
        if bool(fresh.any()):
            self.next = int(rows[-1]) + 1
            own = m[0].detach()[:, fresh]
            self.see(self.layer, own, band.visible[0, 0][fresh], rows[fresh], cols)
        return m


class Rounded(Edit):
    """Rounds scores to few bits, symmetrically, with a new scale for every row.

    Each row of a map is divided by its largest visible |score|, multiplied by 2^(bits - 1) - 1,
    rounded to nearest, and scaled back.
    """

    stage = "scores"

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns the scores, rounded row by row."""
        return rounded(band.zero(m), self.bits)


def rounded(x: Tensor, bits: int) -> Tensor:
    """Returns ``x`` with its last axis as ``bits``-bit integers times one scale, max |x| / levels.

    -inf stays.
    """
    levels = 2 ** (bits - 1) - 1
    finite = torch.where(x.isfinite(), x, 0.0)
    scale = finite.abs().amax(-1, keepdim=True) / levels
    near = torch.where(scale > 0, (finite / scale).round() * scale, finite)
    return torch.where(x.isfinite(), near, x)


@contextlib.contextmanager
def edited(model: Any, make: Make, change: Change | None = None) -> Iterator[list[Edit]]:
    """Add the edits ``make(layer)`` to the attention layers of ``model`` for the block; yields them
    all.

    Args:
        change: a function of keys and values (B, G, T, d), applied before they are used.

    Raises ``SoftmapError`` for a model whose attention cannot be reached.
    """
    own = [module for module in model.modules() if isinstance(module, Attention)]
    way = _softmap(own, make, change) if own else _interface(model, make, change)
    with way as edits:
        yield edits


@contextlib.contextmanager
def _softmap(layers: list[Attention], make: Make, change: Change | None) -> Iterator[list[Edit]]:
    made = [make(n) for n in range(len(layers))]
    for layer, edits in zip(layers, made, strict=True):
        layer.edits.extend(edits)
        if change is not None:
            layer.project = _changed(layer.project, change)  # type: ignore[method-assign]
    try:
        yield [edit for edits in made for edit in edits]
    finally:
        for layer, edits in zip(layers, made, strict=True):
            layer.__dict__.pop("project", None)
            for _ in edits:
                layer.edits.pop(-1)


def _changed(project: Callable[..., Any], change: Change) -> Callable[..., Any]:
    def changed(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = project(*args)
        return q, change(k), change(v)

    return changed


@contextlib.contextmanager
def _interface(model: Any, make: Make, change: Change | None) -> Iterator[list[Edit]]:
    """Replace attention through the interface of transformers."""
    layers: dict[int, list[Edit]] = {}
    made: list[Edit] = []

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, *_: Any, **more: Any
    ) -> tuple[Tensor, None]:
        number = int(getattr(module, "layer_idx", 0) or 0)
        if number not in layers:
            layers[number] = make(number)
            made.extend(layers[number])
        key, value = (key, value) if change is None else (change(key), change(value))
        _check_plain(model, mask, more)
        window = more.get("sliding_window")
        out = attention(query, key, value, layers[number], scale=more.get("scaling"), window=window)
        return out.transpose(1, 2).contiguous(), None

    before = _implementation(model)
    _register(attend)
    model.set_attn_implementation(NAME)
    try:
        yield made
    finally:
        model.set_attn_implementation(before)


def _register(attend: Callable[..., Any]) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, attend)


def _implementation(model: Any) -> str:
    """Returns the model's present attention implementation.

    Raises ``SoftmapError`` where it cannot be changed.
    """
    able = getattr(model, "_can_set_attn_implementation", None)
    if able is None or not able():
        raise SoftmapError(
            f"{type(model).__name__}: expected softmap's attention layers, or a model that uses "
            "the attention interface of transformers, found neither"
        )
    return str(model.config._attn_implementation)


def _check_plain(model: Any, mask: Any, more: dict[str, Any]) -> None:
    """Raise ``SoftmapError`` for attention that is not causal softmax over the keys alone."""
    odd = [name for name in ("softcap", "s_aux", "position_bias") if more.get(name) is not None]
    if mask is not None or more.get("is_causal") is False or odd:
        what = ", ".join(odd) or "its own mask"
        raise SoftmapError(f"{type(model).__name__}: its maps cannot be watched: it has {what}")

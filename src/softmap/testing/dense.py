"""Bidirectional and cross-attention by their formula, dense and without ``ops``, to compare
backends with.
"""

from __future__ import annotations

import torch
from torch import Tensor

from softmap.maps import Band, Edit, Rows, Tensors, chain
from softmap.nn import Attention
from softmap.nn.positions import Positions


def dense(layer: Attention, x: Tensor, y: Tensor | None = None) -> Tensor:
    """Returns the layer on a sequence x (1, T, D) whose tokens see each other, or those of y
    (1, S, D).
    """
    q, k, v = layer.project(x, Positions.of(x.shape[1], None, x.device))
    if y is not None:  # without positions
        q, (k, v) = layer._queries(x, None), layer._keys(y, None)
    edits: list[Edit] = list(layer.edits)  # type: ignore[arg-type]
    tensors = [
        e(x, q, of="query")._replace(key=e(x if y is None else y, k=k, of="key").key) for e in edits
    ]
    band = _band(q.shape[2], k.shape[2], layer.window)
    hidden = ~band.visible
    m = _scores(layer, q, k)
    for n, edit in chain(edits, "scores"):
        m = edit.edit(m, band, _bag(tensors[n]))
    m = m.masked_fill(hidden, -torch.inf)
    lse, normaliser = m.logsumexp(-1), chain(edits, "normaliser")
    for n, edit in normaliser:
        m = edit.edit(m, band, _bag(tensors[n])).masked_fill(hidden, 0.0)
    m = m if normaliser else m.softmax(-1)
    for n, edit in chain(edits, "weights"):
        m = edit.edit(m, band, _bag(tensors[n])).masked_fill(hidden, 0.0)
    v = v.repeat_interleave(layer.heads.outputs // layer.heads.values, 1)
    o, rows = m @ v, Rows(band.rows, lambda: band.count[:, 0, :, 0], lambda: v, lse)
    for n, edit in chain(edits, "output"):
        o = edit.edit(o, rows, _bag(tensors[n]._replace(key={})))
    return layer.o_proj(o.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def _band(rows: int, keys: int, window: int | None) -> Band:
    i, j = torch.arange(rows), torch.arange(keys)
    gap = (i[:, None] - j)[None, None]
    visible = gap.abs() < (rows + keys if window is None else window)
    return Band(i[None], j[None], gap, visible, window is None, causal=False)


def _scores(layer: Attention, q: Tensor, k: Tensor) -> Tensor:
    """Returns (1, H, T, S), each map with the key that it reads."""
    maps = [q[:, m] @ k[:, key].transpose(1, 2) for m, key in enumerate(layer.heads.key_of_map)]
    return torch.stack(maps, 1) * layer.head_dim**-0.5


def _bag(t: Tensors) -> dict[str, Tensor]:
    return {**t.layer, **t.query, **t.key}

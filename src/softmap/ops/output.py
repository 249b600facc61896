"""What follows the map: empty rows, the log-sum-exp of rows, output edits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from softmap.maps import Band, Edit, Tensors
from softmap.ops.call import Call, Region, applied, bag, band_of, run_band
from softmap.ops.heads import Heads

Run = Callable[[Call], Tensor]


def dense(call: Call, *, weights: bool = False) -> Tensor:
    """Returns attention (B, H', T, d') by the whole map at once, or with ``weights`` the map
    (B, H', T, S).
    """
    span = call.span(0, call.queries)._replace(first=0)
    return run_band(call, Region(partial(band_of, call, span)), 0, weights=weights)


def run_whole(backend: ModuleType, call: Call, **options: Any) -> Tensor:
    """Returns a backend's attention after the output edits; ``options`` are those of its
    ``run``.
    """
    run, lse = partial(backend.run, **options), None
    if call.needs_lse and hasattr(backend, "run_with_lse"):
        o, lse = backend.run_with_lse(call)
        lse = zero_unseeing(lse, call)
    else:
        o = run(call)
        lse = log_sum_exp(run, call) if call.needs_lse else None
    return apply_output(zero_unseeing(o, call), call, lse, backend)


def apply_output(
    o: Tensor, call: Call, lse: Tensor | None = None, backend: ModuleType | None = None
) -> Tensor:
    """Returns the output after the output edits, by the backend's own kernels (``output``) if
    it has them.

    Args:
        lse: (B, H, T) if the backend computed it; else it is computed where an edit needs it.
    """
    own = getattr(backend, "output", None)
    if lse is None and call.needs_lse:
        lse = log_sum_exp(dense, call)
    for n, edit in call.chain("output"):
        t = bag(call.tensors[n]._replace(key={}))
        done = None if own is None else own(edit, o, t)
        o = applied(edit, edit.edit, o, call.rows_for(o.shape[1], lse), t) if done is None else done
    return o


def zero_unseeing(t: Tensor, call: Call) -> Tensor:
    """Returns ``t`` (B, H, T, ...) with zeros in the rows that see no key."""
    if call.valid is None:
        return t
    sees = (call.count > 0)[:, None]
    return torch.where(sees.view(*sees.shape, *[1] * (t.ndim - 3)), t, 0.0)


class LogSumExp(Edit):
    """A normaliser whose weights, applied to values of one, give the row's log-sum-exp."""

    stage = "normaliser"
    keeps_zeros = True

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns the row's log-sum-exp, distributed evenly over its visible keys."""
        share = band.visible / band.count.clamp(min=1).to(m.dtype)
        return m.logsumexp(-1, keepdim=True) * share


def lse_call(call: Call) -> Call:
    """Returns a call whose attention (B, H, T, 1) is the log-sum-exp of each row of edited
    scores.

    So any backend that takes a normaliser computes it, with its gradients. It is 0 where nothing is
    seen.
    """
    kept = [n for n, edit in enumerate(call.edits) if edit.stage == "scores"]
    maps, k = call.heads.maps, call.k[:, call.heads.key_of_map]
    return replace(
        call,
        k=k,
        v=torch.ones_like(k[..., :1]),
        edits=[*(call.edits[n] for n in kept), LogSumExp()],
        tensors=[*(call.tensors[n] for n in kept), Tensors({}, {}, {})],
        heads=Heads(maps, maps, maps, maps),
        running=None,
    )


def log_sum_exp(run: Run, call: Call) -> Tensor:
    """Returns the log-sum-exp (B, H, T) of each row of edited scores, by a backend's ``run``."""
    return run(lse_call(call)).squeeze(-1)

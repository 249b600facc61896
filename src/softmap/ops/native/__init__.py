"""C++ bands on the CPU: every edit that names a kernel, forward and backward, in cache.

A band of query rows and all heads is held as tiles of columns. Forward: products, scores edits,
softmax, weights edits, products. Backward: the same again from q, k, v and two numbers a row, then
the adjoints. Each thread takes bands of about equal cost; the sums over bands are made in a fixed
order, so a result does not change from run to run on the same number of threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softmap.maps import Edit, chain
from softmap.ops.call import Call
from softmap.ops.folded import finish, scaled_query
from softmap.ops.native import build, limits, operator, plain


def refuses(call: Call) -> str | None:
    """Why the call cannot run here, or None."""
    return limits.unsupported(call) or limits.irregular(call) or build.missing()


def skipped(call: Call) -> str | None:
    """Why ``auto`` passes it over although it could run the call, or None."""
    return None if limits.kernel_edits(call) or limits.formless(call) else plain.skipped(call)


def _only_shaped(call: Call) -> bool:
    """One Shaped after the softmax costs nothing as a change of the output. (A subtraction of pairs
    has such a form too, but halves the products with the values when it is made on the map.)"""
    edits = chain(call.edits, "weights")
    return len(edits) == 1 and edits[0][1].kernel == "shaped"


def run(call: Call) -> Tensor:
    """Attention (B, H', T, d'); exact, with every gradient of the reference."""
    return _run(call)[0]


def run_with_lse(call: Call) -> tuple[Tensor, Tensor]:
    """The same, and the log-sum-exp (B, H, T) of each map's rows."""
    o, statistics = _run(call)
    return o, operator.log_sum_exp(statistics)


def _run(call: Call) -> tuple[Tensor, Tensor]:
    """Attention, and two numbers for each row of scores (B, H, T, 2)."""
    build.ready()
    limits.insist(call)
    q, (first, last) = scaled_query(call, limits.folded_edits(call)), visible_range(call)
    if chain(call.edits, "normaliser"):
        o, statistics = _attend(call, q, ("scores",), first, last)
        return finish(call, o, operator.log_sum_exp(statistics)), statistics
    if not _only_shaped(call):
        return _attend(call, q, ("scores", "weights"), first, last)
    o, statistics = _attend(call, q, ("scores",), first, last)
    t = call.tensors[chain(call.edits, "weights")[0][0]].layer
    gamma = t.get("gamma", o.new_empty(0))
    o = torch.ops.softmap_native.shaped_forward(
        o, call.v, t["alpha"], t["beta"], gamma, first, last
    )
    return o, statistics


def output(edit: Edit, o: Tensor, t: dict[str, Tensor]) -> Tensor | None:
    """The output edit by its kernel, or None where it has none."""
    if edit.kernel != "head_norm" or t["weight"].shape != o.shape[3:]:
        return None
    norm: Any = edit
    weight = t["weight"] * norm.scale
    return torch.ops.softmap_native.rms_norm(o, weight, norm.eps)[0]  # type: ignore[no-any-return]


def _attend(
    call: Call, q: Tensor, stages: tuple[str, ...], first: Tensor, last: Tensor
) -> tuple[Tensor, Tensor]:
    plan: list[str] = []
    tensors: list[Tensor] = []
    for n, edit in limits.kernel_edits(call):
        if edit.stage in stages:
            group = call.tensors[n]
            named = {**group.layer, **_whole(group.query, call), **_whole(group.key, call)}
            plan.append(f"{edit.stage} {edit.kernel} {','.join(named)}")
            tensors += named.values()
    positions = call.rows.long().expand(call.batch, -1)
    return torch.ops.softmap_native.forward(  # type: ignore[no-any-return]
        q, call.k, call.v, tensors, "; ".join(plan), call.heads.key_of_map, call.scale,
        first, last, positions,
    )  # fmt: skip


def _whole(group: dict[str, Tensor], call: Call) -> dict[str, Tensor]:
    """Tensors that all sequences share, once for each."""
    B = call.batch
    return {n: t if t.shape[0] == B else t.expand(B, *t.shape[1:]) for n, t in group.items()}


def visible_range(call: Call) -> tuple[Tensor, Tensor]:
    """(B, T) first and last: query t sees the keys [first, last), by place."""
    first, last = call.reach
    if call.valid is not None:
        count = call.valid.sum(1, keepdim=True)
        begin = call.valid.int().argmax(1, keepdim=True)
        first, last = torch.maximum(first, begin), torch.minimum(last, begin + count)
    return first, last

"""The backend ``native``: C++ bands on the CPU for every edit that names a kernel.

A band of query rows and all heads is held in cache as tiles of columns. Forward: products, scores
edits, softmax, weights edits, products. Backward: the same again from q, k, v and two numbers per
row, then the adjoints. Each thread takes bands of about equal cost; sums over bands are taken in a
fixed order, so that results do not change from run to run with the same number of threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softmap.maps import Edit
from softmap.ops.call import Call
from softmap.ops.folded import finish, scaled_query
from softmap.ops.native import build, limits, operator, plain


def refuses(call: Call) -> str | None:
    """Returns why the call cannot run here, or None."""
    return limits.unsupported(call) or limits.irregular(call) or build.missing()


def skipped(call: Call) -> str | None:
    """Returns why ``auto`` passes it over although it could run the call, or None."""
    return None if limits.kernel_edits(call) or limits.formless(call) else plain.skipped(call)


def _only_shaped(call: Call) -> bool:
    """Whether the only edit is a Shaped after the softmax, which costs nothing as a change of
    the output. (A subtraction of pairs has such a form too, but halves the products with the
    values when it is made on the map.)
    """
    edits = call.chain("weights")
    return len(edits) == 1 and edits[0][1].kernel == "shaped"


def run(call: Call) -> Tensor:
    """Returns attention (B, H', T, d'), exact, with every gradient of the reference."""
    return _run(call)[0]


def run_with_lse(call: Call) -> tuple[Tensor, Tensor]:
    """Returns the same, and the log-sum-exp (B, H, T) of each map's rows."""
    o, statistics = _run(call)
    return o, operator.log_sum_exp(statistics)


def _run(call: Call) -> tuple[Tensor, Tensor]:
    """Returns attention, and two numbers for each row of scores (B, H, T, 2)."""
    build.ready()
    limits.insist(call)
    q, (first, last) = scaled_query(call, limits.folded_edits(call)), visible_range(call)
    if call.chain("normaliser"):
        o, statistics = _attend(call, q, ("scores",), first, last)
        return finish(call, o, operator.log_sum_exp(statistics)), statistics
    if not _only_shaped(call):
        return _attend(call, q, ("scores", "weights"), first, last)
    o, statistics = _attend(call, q, ("scores",), first, last)
    t = call.tensors[call.chain("weights")[0][0]].layer
    gamma = t.get("gamma", o.new_empty(0))
    o = torch.ops.softmap_native.shaped_forward(
        o, call.v, t["alpha"], t["beta"], gamma, first, last
    )
    return o, statistics


def output(edit: Edit, o: Tensor, t: dict[str, Tensor]) -> Tensor | None:
    """Returns the result of the output edit by its kernel, or None where it has none."""
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
    """Returns tensors that all sequences share, expanded once for each."""
    B = call.batch
    return {n: t if t.shape[0] == B else t.expand(B, *t.shape[1:]) for n, t in group.items()}


def visible_range(call: Call) -> tuple[Tensor, Tensor]:
    """Returns first and last, (B, T) each: query t sees the keys [first, last), by index."""
    first, last = call.reach
    if call.valid is not None:
        count = call.valid.sum(1, keepdim=True)
        begin = call.valid.int().argmax(1, keepdim=True)
        first, last = torch.maximum(first, begin), torch.minimum(last, begin + count)
    return first, last

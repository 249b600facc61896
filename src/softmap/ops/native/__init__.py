"""C++ bands on the CPU: every edit that names a kernel, forward and backward, in cache.

A band of query rows and all heads is held as tiles of columns. Forward: products, scores edits,
softmax, weights edits, products. Backward: the same again from q, k, v and each row's log-sum, then
the adjoints. Each thread takes bands of about equal cost; the sums over bands are made in a fixed
order, so a result does not change from run to run on the same number of threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softmap.maps import Edit, chain
from softmap.ops.call import Call
from softmap.ops.native import build

KERNELS = {"compose", "head_mix", "subtract_pairs", "shaped", "temperature"}
#: Edits of these read the distance of two tokens as that of their places.
BY_DISTANCE = {"alibi", "kerple", "fire"}
KERNELS |= BY_DISTANCE | {"score_conv"} | {f"score_conv+{name}" for name in BY_DISTANCE}
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def refuses(call: Call) -> str | None:
    """Why the call cannot run here, or None."""
    if call.q.device.type != "cpu":
        return f"it runs on the CPU, found tensors on {call.q.device}"
    if call.q.dtype not in _DTYPES:
        return f"it takes float16, bfloat16, float32 and float64, found {call.q.dtype}"
    for edit in _edits(call):
        if edit.kernel not in KERNELS:
            return f"{type(edit).__name__} has no native kernel"
        if edit.stage == "scores" and edit.kernel in ("shaped", "subtract_pairs"):
            return f"{type(edit).__name__} has no native kernel for scores"
    return _irregular(call) or build.missing()


def _edits(call: Call) -> list[Edit]:
    return [e for stage in ("scores", "weights") for _, e in chain(call.edits, stage)]


def _irregular(call: Call) -> str | None:
    """Rows must see a run of neighbouring keys, and distances must be those of the places."""
    if call.valid is not None:
        starts = call.valid[:, 1:] & ~call.valid[:, :-1]
        if bool((starts.sum(1) + call.valid[:, 0] > 1).any()):
            return "a key_mask hides keys in the middle of a row"
    if any((e.kernel or "").split("+")[-1] in BY_DISTANCE for e in _edits(call)):
        gap = call.cols - torch.arange(call.keys)
        if call.starts is None and call.valid is None and bool((gap != gap[:, :1]).any()):
            return "positions skip tokens, and a bias counts them"
    return None


def run(call: Call) -> Tensor:
    """Attention (B, H', T, d'); exact, with every gradient of the reference."""
    build.load()
    _register()
    plan, tensors = [], []
    for stage in ("scores", "weights"):
        for n, edit in chain(call.edits, stage):
            group = call.tensors[n]
            named = {**group.layer, **_whole(group.query, call), **_whole(group.key, call)}
            plan.append(f"{stage} {edit.kernel} {','.join(named)}")
            tensors += named.values()
    first, last = visible_range(call)
    positions = call.rows.expand(call.batch, -1)
    out, _ = torch.ops.softmap_native.forward(
        call.q, call.k, call.v, tensors, "; ".join(plan), call.heads.key_of_map, call.scale, first, last,
        positions,
    )  # fmt: skip
    return out  # type: ignore[no-any-return]


def _whole(group: dict[str, Tensor], call: Call) -> dict[str, Tensor]:
    """Tensors that all sequences share, once for each."""
    return {n: t.expand(call.batch, *t.shape[1:]) for n, t in group.items()}


def visible_range(call: Call) -> tuple[Tensor, Tensor]:
    """(B, T) first and last: query t sees the keys [first, last), by place."""
    last = torch.arange(call.keys - call.queries + 1, call.keys + 1)[None]
    first = torch.zeros_like(last) if call.window is None else (last - call.window).clamp(min=0)
    if call.starts is not None:
        first = torch.maximum(first, call.starts[:, call.keys - call.queries :])
    if call.valid is not None:
        count = call.valid.sum(1, keepdim=True)
        begin = call.valid.int().argmax(1, keepdim=True)
        first, last = torch.maximum(first, begin), torch.minimum(last, begin + count)
    first, last = torch.broadcast_tensors(first, last)
    return first.expand(call.batch, -1), last.expand(call.batch, -1)


_registered = False


def _register() -> None:
    """Shapes for tracing, and the backward; once, after the library is loaded."""
    global _registered
    if _registered:
        return
    _registered = True
    library = "softmap_native"
    torch.library.register_fake(f"{library}::forward", _fake_forward)
    torch.library.register_fake(f"{library}::backward", _fake_backward)
    torch.library.register_autograd(f"{library}::forward", _backward, setup_context=_remember)
    torch.library.register_autograd(f"{library}::backward", _no_second, setup_context=_nothing)


def _fake_forward(q: Any, k: Any, v: Any, tensors: Any, plan: str, *rest: Any) -> Any:
    heads = q.shape[1] >> plan.count(" subtract_pairs ")
    B, _, T, _ = q.shape
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    out = v.new_empty(B, T, heads, v.shape[3]).transpose(1, 2)
    return out, q.new_empty(B, q.shape[1], T, dtype=wide)


def _fake_backward(grad: Any, sums: Any, q: Any, k: Any, v: Any, tensors: Any, *rest: Any) -> Any:
    def like(t: Tensor) -> Tensor:
        B, H, T, d = t.shape
        return t.new_empty(B, T, H, d).transpose(1, 2)

    return [like(q), like(k), like(v), *(torch.empty_like(t) for t in tensors)]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, tensors, *ctx.rest, first, last, positions = inputs
    ctx.set_materialize_grads(True)
    ctx.mark_non_differentiable(output[1])
    ctx.count = len(tensors)
    ctx.save_for_backward(q, k, v, *tensors, first, last, positions, output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    q, k, v, *others = ctx.saved_tensors
    tensors, (first, last, positions, sums) = others[: ctx.count], others[ctx.count :]
    dq, dk, dv, *rest = torch.ops.softmap_native.backward(
        grad, sums, q, k, v, tensors, *ctx.rest, first, last, positions
    )
    return dq, dk, dv, rest, *([None] * len(ctx.rest)), None, None, None


def _nothing(ctx: Any, inputs: Any, output: Any) -> None:
    """Nothing is kept: there is no second derivative."""


def _no_second(ctx: Any, *grads: Any) -> Any:
    raise NotImplementedError("the native backend has no second derivatives: impl='reference' has")

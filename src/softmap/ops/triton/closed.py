"""Chains that need no map: plain attention by SDPA, then each edit's closed form in one kernel.

Head norms, which follow any chain, are here too.

Causality must be the only mask, for which SDPA has its fastest kernels; other calls take the
template. Under ``torch.compile`` the closed forms are plain torch, which the compiler fuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from softmap.maps import chain, first_order
from softmap.ops import folded
from softmap.ops.call import Call
from softmap.ops.triton import outputs as kernels
from softmap.ops.triton.common import bundle, launch, next_power, only_causal

TILE, MOST = 8192, 128  # numbers of a program's tile, its tokens


def takes(call: Call) -> bool:
    """Whether all edits have closed forms and SDPA needs no mask."""
    causal = only_causal(call) and call.queries == call.keys
    return causal and folded.refuses(call) is None


def run(call: Call) -> Tensor:
    """Returns attention (B, H', T, d') with every gradient."""
    o = folded.plain(call)
    if torch.compiler.is_compiling():
        return folded.finish(call, o)
    for n, edit in chain(call.edits, "weights"):
        assert edit.kernel is not None
        o = KERNELS[edit.kernel](o, call.v, call.tensors[n])
    return o


def _subtract(o: Tensor, v: Tensor, t: Any) -> Tensor:
    return _Subtract.apply(o, (t.layer | t.query)["lambda"])  # type: ignore[no-any-return]


def _shape(o: Tensor, v: Tensor, t: Any) -> Tensor:
    return _Shape.apply(o, v, *(t.layer.get(n) for n in ("alpha", "beta", "gamma")))  # type: ignore[no-any-return]


KERNELS: dict[str, Callable[[Tensor, Tensor, Any], Tensor]] = {
    "subtract_pairs": _subtract,
    "shaped": _shape,
}


class _Subtract(torch.autograd.Function):
    """o (B, 2H, T, d'), lambda () or (b, T, H) -> (B, H, T, d')."""

    @staticmethod
    def forward(ctx: Any, o: Tensor, share: Tensor) -> Tensor:
        B, H, T, d = o.shape
        out = o.new_empty(B, H // 2, T, d)
        over_tokens(kernels.subtract, out, bundle(o), _of_tokens(share, out), bundle(out))
        ctx.save_for_backward(o, share)
        return out

    @staticmethod
    @first_order
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        o, share = ctx.saved_tensors
        do = torch.empty_like(o, memory_format=torch.contiguous_format)
        dshare = o.new_empty(*g.shape[:3], 1, dtype=torch.float32)
        over_tokens(
            kernels.subtract_backward, g, bundle(o), _of_tokens(share, g), bundle(g), bundle(do),
            bundle(dshare),
        )  # fmt: skip
        return do, _like(dshare[..., 0].transpose(1, 2), share)


def _of_tokens(share: Tensor, like: Tensor) -> Any:
    """Returns lambda as a bundle over (b, h, t)."""
    B, H, T, _ = like.shape
    shared = share.expand(B, T, H).transpose(1, 2)
    return (shared, *shared.stride())


def _like(grad: Tensor, t: Tensor) -> Tensor:
    """Returns the gradient summed over what ``t`` was broadcast over, in its dtype."""
    return grad.sum_to_size(t.shape).to(t.dtype)


class _Shape(torch.autograd.Function):
    """o (B, H, T, d'), v (B, G, T, d'), three (H,), of which gamma may be None."""

    @staticmethod
    def forward(ctx: Any, o: Tensor, v: Tensor, *gains: Tensor | None) -> Tensor:
        out = torch.empty_like(o, memory_format=torch.contiguous_format)
        values = None if gains[2] is None else _tile_sums(v, shared=False)
        over_tokens(
            kernels.shape, out, bundle(o), bundle(v), bundle(values), *gains, bundle(out),
            GROUP=o.shape[1] // v.shape[1],
        )  # fmt: skip
        ctx.save_for_backward(o, v, *gains)
        return out

    @staticmethod
    @first_order
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        o, v, *gains = ctx.saved_tensors
        B, H, T, d = o.shape
        shares = None if gains[2] is None else _tile_sums(g, shared=True)
        do = torch.empty_like(o, memory_format=torch.contiguous_format)
        whole = v.shape[1] == H
        dv = v.new_empty(o.shape, dtype=v.dtype if whole else torch.float32)
        sums = o.new_zeros(B, H, -(-T // _tile(d)), 3, dtype=torch.float32)
        over_tokens(
            kernels.shape_backward, g, bundle(o), bundle(v), *gains, bundle(g), bundle(shares),
            bundle(do), bundle(dv), bundle(sums), GROUP=H // v.shape[1],
        )  # fmt: skip
        if not whole:
            dv = dv.view(B, v.shape[1], -1, T, d).sum(2).to(v.dtype)
        parts = sums.sum((0, 2)).unbind(-1)
        found = [None if t is None else s.to(t.dtype) for s, t in zip(parts, gains, strict=True)]
        return (do, dv, *found)


def _tile_sums(x: Tensor, *, shared: bool) -> Tensor:
    """Returns the sum of each tile's tokens, (B, H, tiles, d'); with ``shared`` each token is first
    divided by the number of keys that it sees.
    """
    B, H, T, d = x.shape
    sums = x.new_empty(B, H, -(-T // _tile(d)), d, dtype=torch.float32)
    over_tokens(kernels.tile_sums, x, bundle(x), bundle(sums), SHARED=shared)
    return sums


def norm(o: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Returns RMSNorm over the channels of each head: o (B, H, T, d'), weight (d')."""
    return _Norm.apply(o, weight, eps)  # type: ignore[no-any-return]


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, o: Tensor, weight: Tensor, eps: float) -> Tensor:
        out = torch.empty_like(o, memory_format=torch.contiguous_format)
        size = o.new_empty(*o.shape[:3], 1, dtype=torch.float32)
        over_tokens(kernels.norm, o, bundle(o), weight, bundle(out), bundle(size), eps=eps)
        ctx.save_for_backward(o, weight, size)
        return out

    @staticmethod
    @first_order
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        o, weight, size = ctx.saved_tensors
        B, H, T, d = o.shape
        do = torch.empty_like(o, memory_format=torch.contiguous_format)
        parts = o.new_empty(B, H, -(-T // _tile(d)), d, dtype=torch.float32)
        over_tokens(
            kernels.norm_backward, g, bundle(o), weight, bundle(g), bundle(size), bundle(do),
            bundle(parts),
        )  # fmt: skip
        return do, parts.sum((0, 1, 2)).to(weight.dtype), None


def _tile(width: int) -> int:
    """Returns the number of tokens of a program."""
    return min(MOST, TILE // next_power(width))


def over_tokens(kernel: Any, like: Tensor, *args: Any, **names: Any) -> None:
    """Launches a kernel over the tokens and heads of ``like`` (B, H, T, d)."""
    B, H, T, d = like.shape
    tile = _tile(d)
    launch(
        kernel, (-(-T // tile), H, B), *args, T=T, D=d, **names, BT=tile, DP=next_power(d),
        num_warps=8,
    )  # fmt: skip

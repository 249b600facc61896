"""What every Triton kernel here shares on the host: bundles, the mask as numbers, launches.

The mask of a call, whatever it is made of (causal, window, padding, documents), is one number per
key: row at place p sees key j  iff  j <= p < until[j]. A key of padding has until 0. ``first`` is
the earliest place that a row can see, and only lets kernels skip whole tiles of keys.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from softmap.errors import SoftmapError
from softmap.ops.call import Call

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


class Limits(NamedTuple):
    """until (b, S) int32, first (b, T) int32, b = 1 or B; see the module's first lines."""

    until: Tensor
    first: Tensor


def limits(call: Call) -> Limits:
    """Returns the mask of ``call`` as two vectors."""
    S, T, device = call.keys, call.queries, call.q.device
    place = torch.arange(S, device=device)[None]
    until, first = torch.full_like(place, S), torch.zeros_like(place)
    if call.starts is not None:
        ends = place.expand_as(call.starts).contiguous()
        until = torch.searchsorted(call.starts.contiguous(), ends, right=True)
        first = call.starts
    if call.window is not None:
        until = torch.minimum(until, place + call.window)
        first = torch.maximum(first, place - (call.window - 1))
    if call.valid is not None:
        until = torch.where(call.valid, until, 0)
    return Limits(until.int().contiguous(), first[:, S - T :].int().contiguous())


def only_causal(call: Call) -> bool:
    """Whether every row sees all keys up to its own."""
    whole = call.window is None and call.valid is None and call.starts is None
    return call.causal and whole


def counts(call: Call, mask: Limits) -> Tensor:
    """Returns how many keys each row sees, at least 1, (b, T) float32."""
    S, T = call.keys, call.queries
    real = torch.ones_like(mask.until) if call.valid is None else call.valid
    total = torch.nn.functional.pad(real.long().cumsum(1), (1, 0))
    batch = max(total.shape[0], mask.first.shape[0])
    total, first = total.expand(batch, -1), mask.first.long().expand(batch, -1)
    return (total[:, S - T + 1 :] - total.gather(1, first)).clamp(min=1).float()


def bundle(t: Tensor | None, batch: int = 1) -> tuple[Any, ...] | None:
    """Returns a tensor as a kernel takes it: (pointer, strides of all axes but the last).

    The last axis must lie contiguously; a batch axis of 1 that serves ``batch`` > 1 gets stride 0.
    """
    if t is None:
        return None
    t = t if t.ndim == 0 or t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()
    strides = list(t.stride()[:-1])
    if batch > 1 and t.shape[0] == 1:
        strides[0] = 0
    return (t, *strides)


Launch = Callable[..., Any]
_launch: list[Launch] = []


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """Run a kernel; inside [`launching`][] whatever is given there is done instead."""
    from triton.runtime.errors import OutOfResources

    if _launch:
        _launch[-1](kernel, grid, *args, **options)
    elif interpreting():
        kernel[grid](*args, **{n: v for n, v in options.items() if n not in _HARDWARE})
    else:
        try:
            kernel[grid](*args, **options)
        except OutOfResources as error:
            raise SoftmapError(
                f"the Triton kernel {kernel.fn.__name__} needs more than this GPU has "
                f"({error.name}: {error.required}, limit {error.limit}); impl='chunked' can run it"
            ) from error


_HARDWARE = ("num_warps", "num_stages", "num_ctas", "maxnreg")


@contextmanager
def launching(instead: Launch) -> Iterator[None]:
    """Hand every launch to ``instead(kernel, grid, *args, **options)``, e.g. only to compile it."""
    _launch.append(instead)
    try:
        yield
    finally:
        _launch.pop()


def dot_precision(dtype: torch.dtype) -> str:
    """Returns how float32 operands are multiplied: exactly, unless torch allows TF32."""
    exact = dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
    return "ieee" if exact else "tf32"


def whole_sum(lse: Tensor) -> Tensor:
    """Returns the logarithm (B, H, T), base 2, of the sums whose logarithms are those of the parts,
    (parts, B, H, T); -inf where a row sees no key of any part.
    """
    top = lse.amax(0)
    return top + torch.exp2(lse - _finite(top)).sum(0).log2()


def merge(o: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """Returns o (B, H, T, d') and lse (B, H, T) of all keys from those of parts of the keys, each
    output (parts, B, H, T, d') normalised by its own sum. A part that a row does not see weighs 0.
    """
    whole = whole_sum(lse)
    return (o * torch.exp2(lse - _finite(whole))[..., None]).sum(0), whole


def _finite(lse: Tensor) -> Tensor:
    return lse.clamp(min=torch.finfo(lse.dtype).min)


def next_power(n: int) -> int:
    """Returns the smallest power of two that is not below ``n``."""
    return 1 << max(0, n - 1).bit_length()

"""Score convolution (DAPE V1 and V2) on the matrix units: which calls it takes, and the call."""

from __future__ import annotations

from torch import Tensor

from softmap.maps import chain
from softmap.ops.call import Call
from softmap.ops.triton.common import limits
from softmap.ops.triton.score_conv_plan import (
    BIASES,
    MOST_HIDDEN,
    MOST_TAPS,
    MOST_WIDTH,
    pack,
)


def refuses(call: Call) -> str | None:
    """Returns the first limit that the call exceeds, or None."""
    edits = [e for e in call.edits if e.stage != "output"]
    if len(edits) != 1:
        return "the score convolution has a kernel for itself alone, with output edits or without"
    if (kind := kind_of(edits[0].kernel or "")) not in BIASES:
        return f"no kernel for the bias {kind}"
    reach = max(reach_of(t) for t in (call.q, call.k, call.v))
    if reach >= 1 << 31:
        return f"places within a sequence have 32 bits, at most {(1 << 31) - 1}, found {reach}"
    hidden, _, _, taps = layer_tensors(call)["w1"].shape
    for what, found, most in (
        ("hidden channels", hidden, MOST_HIDDEN),
        ("taps", taps, MOST_TAPS),
        ("channels a head", max(call.q.shape[3], call.v.shape[3]), MOST_WIDTH),
    ):
        if found > most:
            return f"at most {most} {what}, found {found}"
    return None


def reach_of(t: Tensor) -> int:
    """Returns the distance in memory from the first to the last element of a sequence of t."""
    return sum((n - 1) * s for n, s in zip(t.shape[1:], t.stride()[1:], strict=True))


def kind_of(kernel: str) -> str:
    """Returns the name of the bias in ``score_conv+BIAS``, or ``none``."""
    return kernel.partition("+")[2] or "none"


def layer_tensors(call: Call) -> dict[str, Tensor]:
    """Returns the layer's tensors of the call's only scores edit."""
    return next(call.tensors[n].layer for n, _ in chain(call.edits, "scores"))


def run(call: Call) -> Tensor:
    """Returns attention (B, H, T, d') with every gradient, in memory linear in T."""
    from softmap.ops.triton.score_conv_ops import score_conv

    kind = kind_of(next(e.kernel for _, e in chain(call.edits, "scores")) or "")
    q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (call.q, call.k, call.v))
    mask, packed = limits(call), pack(layer_tensors(call), kind, q.dtype)
    rows, cols = (t.int().contiguous() for t in (call.rows, call.cols))
    o, _ = score_conv(
        q, k, v, *packed, mask.until, mask.first, rows, cols, kind, call.scale, call.window or 0
    )
    return o  # type: ignore[no-any-return]

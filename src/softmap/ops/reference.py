"""The oracle: the whole map at once, dense, differentiable by autograd. Runs anywhere."""

from __future__ import annotations

from torch import Tensor

from softmap.ops import memory
from softmap.ops.call import Call
from softmap.ops.output import apply_output, dense


def refuses(call: Call) -> str | None:
    """It never refuses; it only needs memory for T x S maps of every head."""
    return None


def map_bytes(call: Call) -> int:
    """Of one map tensor: all of it."""
    return memory.map_bytes(call, [call.span(0, call.queries)])


def run(call: Call, *, weights: bool = False) -> Tensor:
    """Attention (B, H', T, d'), or with ``weights`` the edited map (B, H', T, S) itself."""
    return dense(call, weights=weights)


def whole(call: Call) -> Tensor:
    """The same with the output edits."""
    return apply_output(run(call), call)

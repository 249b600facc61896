"""The backend ``reference``, the oracle: the whole map at once, dense, differentiated by
autograd.
"""

from __future__ import annotations

from torch import Tensor

from softmap.ops import memory
from softmap.ops.call import Call
from softmap.ops.output import apply_output, dense

run = dense


def refuses(call: Call) -> str | None:
    """Returns None: it only needs memory for T x S maps of every head."""
    return None


def map_bytes(call: Call) -> int:
    """Returns the bytes of one map tensor."""
    return memory.map_bytes(call, [call.span(0, call.queries)])


def whole(call: Call) -> Tensor:
    """Returns attention (B, H', T, d') after the output edits."""
    return apply_output(run(call), call)

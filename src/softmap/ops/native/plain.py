"""Plain attention, with no edit of the map: native where it was measured to be faster.

``results/plain-cpu.json`` (``benchmarks/plain.py``) has native's time over that of
``scaled_dot_product_attention`` by width and length. With gradients it is 0.24 to 0.74 within the
table at heads of up to 8 channels, 0.54 to 0.91 at up to 64, and 0.76 to 0.84 at 128.
"""

from __future__ import annotations

import torch

from softmap.ops.call import Call

#: head_dim up to -> queries for which native was faster in every row of the results.
TRAINING = {8: range(64, 1 << 30), 64: range(128, 2049), 128: range(256, 1025)}
INFERENCE = {8: range(128, 1 << 30), 64: range(256, 1025)}


def skipped(call: Call) -> str | None:
    """Returns why such a call is left to SDPA, or None. So are bidirectional ones, which were
    not measured, and calls in compiled code: a choice by length would compile it again for
    other lengths.
    """
    measured = call.causal and not torch.compiler.is_compiling()
    if measured and call.queries in _faster(call):
        return None
    return "plain attention is faster by scaled_dot_product_attention at this size"


def _faster(call: Call) -> range:
    tensors = (call.q, call.k, call.v)
    trained = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    width = max(t.shape[-1] for t in tensors)
    table = TRAINING if trained else INFERENCE
    return next((found for most, found in table.items() if width <= most), range(0))

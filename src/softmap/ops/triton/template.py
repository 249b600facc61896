"""A call run by the template: tensors gathered, the operator, closed forms on its output."""

from __future__ import annotations

from torch import Tensor

from softmap.maps import chain
from softmap.ops.call import Call
from softmap.ops.folded import finish
from softmap.ops.triton.operator import attend
from softmap.ops.triton.plan import spec_of, tensors_of_call


def run(call: Call) -> Tensor:
    """Attention (B, H', T, d') with every gradient.

    Where no edit mixes heads, weights edits have closed forms: pairs of outputs subtracted, a mean
    of values added. They act on the output of one online pass.
    """
    spec = spec_of(call)
    o = attend(tensors_of_call(call, spec), spec)
    if spec.mixes or not chain(call.edits, "weights"):
        return o
    return finish(call, o)

"""Low precision against float64, measured by what a plain low-precision map loses."""

from __future__ import annotations

import torch
from torch import Tensor

from softmap.ops import chunked, precision
from softmap.ops.call import Call
from softmap.ops.output import apply_output
from softmap.ops.yardstick import errors
from softmap.testing.layers import Note
from softmap.testing.subject import CheckSubject, bands, call_of

DRAWS = 5


def low_precision(subject: CheckSubject) -> Note:
    """In bfloat16 and float16 the bands' error against float64 is at most twice (gradients: three
    times) that of the plain map ([`softmap.ops.precision`][]), with every fresh buffer filled with
    NaN first. Compared are medians over five draws.
    """
    notes = []
    for dtype in (torch.bfloat16, torch.float16):
        try:
            draws = [_errors(subject.with_seed(subject.seed + n), dtype) for n in range(DRAWS)]
        except (RuntimeError, NotImplementedError) as error:
            if "not implemented" not in str(error):
                raise
            notes.append(f"no {dtype} here: {str(error).splitlines()[0]}")
            continue
        why = precision.fault(precision.medians(draws), dtype)
        assert why is None, why
    return "; ".join(notes) or None


def _errors(subject: CheckSubject, dtype: torch.dtype) -> precision.Draw:
    """Returns the errors of one draw."""
    with torch.no_grad():
        call = call_of(subject.layer(dtype), subject.input(2, 33, dtype))
    with bands(8):
        return errors(_in_bands, call)


def _in_bands(call: Call) -> Tensor:
    return apply_output(chunked.run(call), call)

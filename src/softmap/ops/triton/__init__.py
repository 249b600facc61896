"""Triton kernels: a tile of the map, edits plugged in, forward and backward; no map in memory.

    scores edits -> softmax -> weights edits -> times v, tile by tile, from q, k, v alone

Edits of one chain are tile functions with their adjoints (``edits.EDITS``), handed to one template
(``forward``, ``backward``). docs/kernels.md gives the arithmetic. Triton is imported on first use;
with ``TRITON_INTERPRET=1`` the kernels run, slowly, on CPU tensors.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from softmap.maps import Edit, chain
from softmap.ops import folded
from softmap.ops.call import Call
from softmap.ops.qualify.kind import CallKind
from softmap.ops.triton.common import DTYPES, interpreting, only_causal

MOST_HEADS, MOST_WIDTH = 64, 256
OUTPUTS = ("head_norm",)  # kernels of output edits


def refuses(call: Call) -> str | None:
    """Returns why no kernel runs the call, or None."""
    return _machine(call) or _kind(call) or _shapes(call) or _edits(call)


def skipped(call: Call) -> str | None:
    """Returns why ``auto`` leaves the call to SDPA although kernels could run it, or None."""
    if chain(call.edits, "weights") or not only_causal(call) or folded.refuses(call) is not None:
        return None
    return "scaled_dot_product_attention has kernels for attention without edits of the weights"


def run(call: Call) -> Tensor:
    """Returns attention (B, H', T, d') with every gradient."""
    from softmap.ops.triton import closed, operator, score_conv

    if _convolves(call):
        return score_conv.run(call)
    return closed.run(call) if closed.takes(call) else operator.run(call)


def output(edit: Edit, o: Tensor, t: dict[str, Tensor]) -> Tensor | None:
    """Returns the result of the output edit by its kernel; None where it has none, for another
    width than that of ``o``, and under a compiler, which fuses torch's own operations.
    """
    if edit.kernel not in OUTPUTS or torch.compiler.is_compiling():
        return None
    if t["weight"].shape != o.shape[3:]:
        return None
    from softmap.ops.triton import closed

    head_norm: Any = edit
    return closed.norm(o, t["weight"] * head_norm.scale, head_norm.eps)


def made_of(kind: CallKind) -> dict[str, Any]:
    """Returns all that the result of such calls depends on beside their kind; ``auto`` takes the
    kernels once they have qualified with it.
    """
    from softmap.ops.triton import made

    return made.made_of(kind)


def trials(kind: CallKind) -> list[tuple[int, int]]:
    """Returns (queries, keys) of the calls on which the kernels have to qualify."""
    from softmap.ops.triton import made

    return made.trials(kind)


def _machine(call: Call) -> str | None:
    device = call.q.device.type
    if device != "cuda" and not interpreting():
        return f"Triton kernels need tensors on a GPU, found them on {device!r}"
    if find_spec("triton") is None:
        return "Triton is not installed (pip install 'softmap[gpu]')"
    # Properties, since a compiler that traces this treats them as constants.
    if device == "cuda" and torch.cuda.get_device_properties(call.q.device).major < 8:
        return "kernels need a GPU of compute capability 8.0 or newer"
    if interpreting() and call.q.dtype == torch.bfloat16:
        return "Triton's interpreter computes bfloat16 wrongly"
    return None


def _kind(call: Call) -> str | None:
    return None if call.causal else "kernels are for causal attention, found causal=False"


def _shapes(call: Call) -> str | None:
    h, d, dv = call.heads, call.q.shape[3], call.v.shape[3]
    if call.q.dtype not in DTYPES:
        return f"kernels take float16, bfloat16 and float32, found {call.q.dtype}"
    if not call.batch or not dv:
        return "kernels need at least one sequence and one channel"
    if max(d, dv) > MOST_WIDTH:
        return f"kernels take heads of at most {MOST_WIDTH} channels, found {max(d, dv)}"
    if h.maps > MOST_HEADS and any(e.stage != "output" for e in call.edits):
        return f"kernels take at most {MOST_HEADS} heads, found {h.maps}"
    return None


def _edits(call: Call) -> str | None:
    if _convolves(call):
        from softmap.ops.triton import score_conv

        return score_conv.refuses(call)
    from softmap.ops.triton.edits import EDITS

    for edit in call.edits:
        if edit.stage != "output" and (edit.kernel not in EDITS or edit.halo or edit.pad):
            return f"{type(edit).__name__} has no tile code"
    return None


def _convolves(call: Call) -> bool:
    return any((e.kernel or "").startswith("score_conv") for e in call.edits)

"""What the native kernels require of a call, checked before it runs or, in compiled code, while
it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile

import torch
from torch import Tensor

from softmap.maps import Edit
from softmap.ops.call import Call
from softmap.ops.folded import has_form
from softmap.ops.native import shapes

KERNELS = {"compose", "forget", "head_mix", "shaped", "softcap", "subtract_pairs", "temperature"}
#: Edits of these read the distance of two tokens as that of their places.
BY_DISTANCE = {"alibi", "kerple", "fire"}
KERNELS |= BY_DISTANCE | {"score_conv"} | {f"score_conv+{name}" for name in BY_DISTANCE}
#: Kernels that read places as those of causal rows.
CAUSAL = BY_DISTANCE | {"forget"} | {name for name in KERNELS if name.startswith("score_conv")}
MAX_RANK = 4  # of compose
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def folded_edits(call: Call) -> list[tuple[int, Edit]]:
    """Returns the scores edits before all kernels that are a change of the query."""
    folds = lambda at: at[1].kernel is None and has_form(at[1])  # noqa: E731
    return list(takewhile(folds, call.chain("scores")))


def kernel_edits(call: Call) -> list[tuple[int, Edit]]:
    """Returns the edits of the map that kernels have to run. Weights edits after a normaliser
    have to follow the output by their closed forms.
    """
    scores = call.chain("scores")[len(folded_edits(call)) :]
    return scores if call.chain("normaliser") else scores + call.chain("weights")


def unsupported(call: Call) -> str | None:
    """Returns what of the call has no kernel, or None."""
    if call.q.device.type != "cpu":
        return f"it runs on the CPU, found tensors on {call.q.device}"
    if call.q.dtype not in _DTYPES:
        return f"it takes float16, bfloat16, float32 and float64, found {call.q.dtype}"
    edits = kernel_edits(call)
    for _, edit in edits:
        if edit.kernel not in KERNELS:
            return f"{type(edit).__name__} has no native kernel"
        if edit.stage == "scores" and edit.kernel in ("shaped", "subtract_pairs"):
            return f"{type(edit).__name__} has no native kernel for scores"
        if edit.kernel == "compose" and getattr(edit, "rank", 0) > MAX_RANK:
            return f"{type(edit).__name__} has native kernels up to rank {MAX_RANK}"
        if edit.kernel in CAUSAL and not call.causal:
            return f"{type(edit).__name__} has a native kernel for causal attention alone"
    return formless(call) or _misshapen(call, edits)


def formless(call: Call) -> str | None:
    """Returns what keeps a normaliser, or what follows it, from being a change of the output,
    or None.
    """
    for _, edit in call.chain("normaliser"):
        if not has_form(edit):
            return f"{type(edit).__name__} stands in place of the softmax and has no native kernel"
        for _, after in call.chain("weights"):
            if not has_form(after):
                needs = f"no closed form, which it needs after {type(edit).__name__}"
                return f"{type(after).__name__} has {needs}"
    return None


def _misshapen(call: Call, edits: list[tuple[int, Edit]]) -> str | None:
    if torch.compiler.is_compiling():  # of layers, whose edits make their own
        return None
    maps = call.heads.maps
    for n, edit in edits:
        why = shapes.wrong(str(edit.kernel), call.tensors[n], maps)
        if why is not None:
            return f"{type(edit).__name__}: {why}"
        maps = edit.heads_out(maps) if edit.stage == "weights" else maps
    return None


def irregular(call: Call) -> str | None:
    """Returns which number of the call the kernels cannot take, or None. Under
    ``torch.compile`` no number can be read: [`insist`][] checks when the compiled code runs.
    """
    if _by_distance(call) and call.rows.is_floating_point():
        return f"a bias needs positions in integers, found {call.rows.dtype}"
    if torch.compiler.is_compiling():
        return None
    return next((why for holds, why in conditions(call) if not bool(holds)), None)


def insist(call: Call) -> None:
    """Raise ``RuntimeError`` in compiled code for what [`irregular`][] could not see."""
    if torch.compiler.is_compiling():
        for holds, why in conditions(call):
            torch._assert_async(holds, f"impl='native' cannot run this: {why}; 'chunked' can")


def conditions(call: Call) -> Iterator[tuple[Tensor, str]]:
    """Yields what must hold, as a boolean, and the message where it does not."""
    if call.valid is not None:
        runs = (call.valid & ~(call.valid.roll(1, 1) & (torch.arange(call.keys) > 0))).sum(1)
        yield (runs <= 1).all(), "a key_mask hides keys in the middle of a row"
    if _by_distance(call):
        yield _counted(call), "positions skip tokens, and a bias counts them"


def _by_distance(call: Call) -> bool:
    return any(e.kernel is not None and e.kernel.split("+")[-1] in BY_DISTANCE for e in call.edits)


def _counted(call: Call) -> Tensor:
    """Whether any two tokens that may meet are as far apart by position as by index."""
    first = call.offset
    places = torch.arange(call.keys)
    shift = call.cols - places
    # Rolled, not cut: a tracer would have to know whether length - 1 is 1.
    same, own = shift == shift.roll(1, 1), call.rows - places[first:] == shift[:, first:]
    if call.valid is not None:
        same = same | ~(call.valid & call.valid.roll(1, 1))
        own = own | ~call.valid[:, first:]
    if call.starts is not None:
        same = same | (call.starts != call.starts.roll(1, 1))
    return (same | (places == 0)).all() & own.all()

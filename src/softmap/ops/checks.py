"""The checks of [`softmap.attention`][], each with a message of one line. None waits for a GPU."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from softmap.errors import SoftmapError, nearest, reason, shown
from softmap.maps import (
    STAGES,
    Edit,
    Tensors,
    chain,
    check_declared,
    check_names,
    check_one_normaliser,
)
from softmap.ops.documents import INTEGERS, can_look

_INTEGERS = (torch.bool, *INTEGERS)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_inputs(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True) -> None:
    """Raise ``ValueError`` unless q (B, H, T, d), k (B, G, S, d) and v (B, G', S, d') fit
    together in kind, shape, dtype and device.
    """
    for name, t in {"q": q, "k": k, "v": v}.items():
        check_kind(name, t)
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if not q.ndim == k.ndim == v.ndim == 4:
        raise SoftmapError(f"q, k, v must be (batch, heads, tokens, width), found {shapes}")
    if q.shape[0] != k.shape[0] or k.shape[0] != v.shape[0]:
        raise SoftmapError(f"q, k, v must have one batch size, found {shapes}")
    enough = q.shape[2] <= k.shape[2] if causal else k.shape[2] > 0
    if k.shape[2] != v.shape[2] or not enough or not q.shape[2]:
        wanted = "1..keys queries" if causal else "at least one query and key"
        raise SoftmapError(f"expected as many keys as values and {wanted}, found {shapes}")
    if q.shape[3] != k.shape[3] or not q.shape[3]:
        raise SoftmapError(f"queries and keys must have one width, at least 1, found {shapes}")
    if not q.dtype == k.dtype == v.dtype or q.dtype not in DTYPES:
        raise SoftmapError(
            f"q, k, v must have one floating dtype, found {q.dtype}, {k.dtype}, {v.dtype}"
        )
    if not q.device == k.device == v.device:
        raise SoftmapError(
            f"q, k, v must be on one device, found {q.device}, {k.device}, {v.device}"
        )


def check_kind(name: str, t: Any) -> None:
    """Raise ``ValueError`` unless this is a plain dense tensor: not sparse, nested or a wrapper."""
    if type(t) in (Tensor, torch.nn.Parameter) and t.layout is torch.strided and not t.is_nested:
        return
    if not isinstance(t, Tensor):
        raise SoftmapError(f"{name} must be a tensor, found {type(t).__name__}")
    if t.is_nested or t.layout is not torch.strided:
        found = "a nested tensor" if t.is_nested else str(t.layout)
        raise SoftmapError(f"{name} must be a dense tensor, found {found}")
    if is_traceable_wrapper_subclass(t) and not torch.compiler.is_compiling():
        raise SoftmapError(f"{name} must be a plain tensor, found {type(t).__name__}")


def as_edits(edits: Any) -> list[Edit]:
    """Returns the edits as a list; raises ``ValueError`` for a name, a single edit and anything
    else.
    """
    if isinstance(edits, str):
        raise SoftmapError(
            f"edits must be a list of Edit modules, found the text {edits!r}: "
            "softmap.edits makes them, softmap.nn.Attention takes a variant by name"
        )
    if isinstance(edits, Edit | Tensor) or not hasattr(edits, "__iter__"):
        raise SoftmapError(f"edits must be a list of Edit modules, found {type(edits).__name__}")
    made = list(edits)
    for edit in made:
        if not isinstance(edit, Edit):
            found = edit.__name__ if isinstance(edit, type) else type(edit).__name__
            what = "the class " if isinstance(edit, type) else ""
            raise SoftmapError(f"edits must be Edit modules, found {what}{found} among them")
        check_declared(edit)
    check_one_normaliser(made)
    return made


def maps_after(edits: Sequence[Edit], maps: int) -> int:
    """Returns the number of maps after the edits of ``maps`` query heads; raises ``ValueError``
    for an edit that was built for another number.
    """
    for stage in STAGES:
        for _, edit in chain(edits, stage):
            if edit.maps not in (None, maps):
                raise SoftmapError(
                    f"{_name(edit)} was made for {edit.maps} maps, found {maps} "
                    f"{'query heads' if stage == 'scores' else 'maps that reach it'}"
                )
            maps = edit.heads_out(maps) if stage == "weights" else maps
    return maps


def check_x(
    x: Tensor, batch: int, tokens: int, device: torch.device, name: str = "x", of: str = "keys"
) -> None:
    """Raise ``ValueError`` unless ``name`` is (B, tokens, D), a float dtype of 16 to 64 bits,
    on q's device.
    """
    check_place(name, x, device)
    if x.dtype not in DTYPES:
        raise SoftmapError(f"{name} must have a floating dtype of 16 to 64 bits, found {x.dtype}")
    if x.ndim != 3 or x.shape[:2] != (batch, tokens):
        hint = "; with cached keys pass tensors= instead" if (name, of) == ("x", "keys") else ""
        raise SoftmapError(
            f"{name} must be (batch, {of}, width) = ({batch}, {tokens}, D), "
            f"found {tuple(x.shape)}{hint}"
        )


def check_tensors(
    edits: Sequence[Edit], tensors: Any, batch: int, T: int, S: int, device: torch.device
) -> list[Tensors]:
    """Raise ``ValueError`` unless there is one entry per edit, with query tensors (b, T, ...)
    and key tensors (b, S, ...), b = 1 or B, on q's device.
    """
    if isinstance(tensors, str | Tensor) or not hasattr(tensors, "__iter__"):
        found = type(tensors).__name__
        raise SoftmapError(f"tensors must be a list of one entry for each edit, found {found}")
    groups = list(tensors)
    if len(groups) != len(edits):
        raise SoftmapError(
            f"tensors must hold one entry for each edit, expected {len(edits)}, found {len(groups)}"
        )
    for edit, group in zip(edits, groups, strict=True):
        if not isinstance(group, Tensors) or not all(isinstance(d, dict) for d in group):
            raise SoftmapError(
                f"tensors must be what edit(x) gives for each, found {type(group).__name__} for "
                f"{_name(edit)}"
            )
        check_names(edit, group)
        for kind, tokens, owned in zip(Tensors._fields, (0, T, S), group, strict=True):
            for name, t in owned.items():
                _check_own(edit, kind, name, t, device)
                if tokens and (t.ndim < 2 or t.shape[0] not in (1, batch) or t.shape[1] != tokens):
                    raise SoftmapError(
                        f"{_name(edit)}: {kind} tensor {name!r} must be ({batch}, {tokens}, ...), "
                        f"found {tuple(t.shape)}"
                    )
    return groups


def _check_own(edit: Edit, kind: str, name: str, t: Any, device: torch.device) -> None:
    """Raise ``ValueError`` for a tensor of an edit that a kernel could not read."""
    if type(t) not in (Tensor, torch.nn.Parameter) or t.layout is not torch.strided or t.is_nested:
        check_kind(f"{_name(edit)}: {kind} tensor {name!r}", t)
    if t.device != device:
        raise SoftmapError(
            f"{_name(edit)}: {kind} tensor {name!r} must be on {device} as q is, "
            f"found it on {t.device}"
        )
    if t.dtype not in DTYPES and (t.dtype not in _INTEGERS or edit.kernel is not None):
        raise SoftmapError(
            f"{_name(edit)}: {kind} tensor {name!r} must have a floating dtype of 16 to 64 bits, "
            f"found {t.dtype}"
        )


def check_running(running: Any, batch: int, heads: int, width: int, device: torch.device) -> None:
    """Raise ``ValueError`` unless ``running`` is a sum (B, G', d') and a count (B, 1)."""
    shapes = ((batch, heads, width), (batch, 1))
    given = isinstance(running, tuple | list) and len(running) == 2
    if given and all(isinstance(t, Tensor) and t.layout is torch.strided for t in running):
        same = all(t.dtype in DTYPES and t.device == device for t in running)
        if same and tuple(tuple(t.shape) for t in running) == shapes:
            return
    raise SoftmapError(
        f"running must be a sum {shapes[0]} and a count {shapes[1]} on {device}, found "
        + (", ".join(map(_described, running)) if given else type(running).__name__)
    )


def _described(t: Any) -> str:
    if not isinstance(t, Tensor):
        return type(t).__name__
    return f"{tuple(t.shape)} of {t.dtype} on {t.device}"


def check_packed(edits: Sequence[Edit], running: Any) -> None:
    """Raise ``ValueError`` for options that do not go with packed documents."""
    if running is not None:
        raise SoftmapError("running is the sum over one document: expected None with documents=")
    for edit in edits:
        if edit.halo:
            raise SoftmapError(
                f"{_name(edit)} reads {edit.halo} earlier rows, which may be another document's: "
                "expected edits without a halo with documents="
            )


def own_tensors(
    edit: Edit, x: Tensor | None, q: Tensor | None, k: Tensor | None, of: str = "both"
) -> Tensors:
    """Returns the tensors that the edit computes from x, q and k; its errors become one line."""
    try:
        return edit(x, q, k, of)  # type: ignore[no-any-return]
    except SoftmapError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        given = "no x" if x is None else f"x {tuple(x.shape)} of {x.dtype} on {x.device}"
        raise SoftmapError(
            f"{_name(edit)} cannot make its tensors of {given}: {reason(error)}"
        ) from error


def check_count(name: str, count: Any) -> None:
    """Raise ``ValueError`` unless this is an integer of at least 1."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise SoftmapError(f"{name} must be a positive integer, found {shown(count)}")


def check_window(window: Any) -> None:
    """Raise ``ValueError`` unless the window is an integer of at least 1."""
    if isinstance(window, bool) or not isinstance(window, int | torch.SymInt):
        raise SoftmapError(f"window must be an integer number of keys, found {shown(window)}")
    if window < 1:
        raise SoftmapError(
            f"window must be at least 1 key (the query's own), found {shown(window)}"
        )


def check_scale(scale: Any) -> None:
    """Raise ``ValueError`` unless the scale is a finite number."""
    if isinstance(scale, bool) or not isinstance(scale, int | float | torch.SymFloat):
        raise SoftmapError(f"scale must be a number, found {type(scale).__name__}")
    try:
        finite = math.isfinite(scale)
    except OverflowError:  # an integer beyond all floats
        finite = False
    if not finite:
        raise SoftmapError(f"scale must be finite, found {shown(scale)}")


def check_mask(mask: Any, batch: int, keys: int, device: torch.device) -> None:
    """Raise ``ValueError`` unless the mask is (B, S), boolean or ones and zeros; additive masks
    are refused.
    """
    if not isinstance(mask, Tensor) or mask.dtype not in _INTEGERS:
        found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise SoftmapError(
            f"key_mask must be boolean, True at real keys (not numbers to add), found {found}"
        )
    if mask.shape != (batch, keys):
        raise SoftmapError(
            f"key_mask must be (batch, keys) = ({batch}, {keys}), found {tuple(mask.shape)}"
        )
    check_place("key_mask", mask, device)


def check_places(name: str, at: Any, batch: int, tokens: int, device: torch.device) -> None:
    """Raise ``ValueError`` unless positions ``rows`` or ``cols`` are (b, tokens), b = 1 or B,
    integers or floats.
    """
    shape = tuple(at.shape) if isinstance(at, Tensor) else type(at).__name__
    if shape not in ((1, tokens), (batch, tokens)):
        raise SoftmapError(f"{name} must be ({batch}, {tokens}) or (1, {tokens}), found {shape}")
    if at.dtype not in (*_INTEGERS, *DTYPES) or at.dtype == torch.bool:
        raise SoftmapError(f"{name} must be numbers of tokens, found {at.dtype}")
    check_place(name, at, device)


def check_place(name: str, t: Tensor, device: torch.device) -> None:
    """Raise ``ValueError`` unless this is a dense tensor on q's device."""
    check_kind(name, t)
    if t.device != device:
        raise SoftmapError(f"{name} must be on {device} as q is, found it on {t.device}")


def check_increase(cols: Tensor, valid: Tensor | None, starts: Tensor | None) -> None:
    """Raise ``ValueError`` unless positions (b, S) increase over the real tokens of a document;
    a GPU is not asked.
    """
    if not can_look(cols):
        return
    wrong = cols[:, 1:] <= cols[:, :-1]
    if valid is not None:
        wrong = wrong & valid[:, 1:] & valid[:, :-1]
    if starts is not None:
        wrong = wrong & (starts[:, 1:] == starts[:, :-1])
    if bool(wrong.any()):
        row, place = (int(n) for n in wrong.nonzero()[0])
        at = cols[row % cols.shape[0], place : place + 2].tolist()
        raise SoftmapError(
            f"cols must increase (packed texts: see documents=), found {at[0]} and then {at[1]} "
            f"at keys {place} and {place + 1}"
        )


def check_impl(impl: Any, known: Collection[str]) -> None:
    """Raise ``ValueError`` unless this is ``auto`` or the name of a backend."""
    if isinstance(impl, str) and (impl == "auto" or impl in known):
        return
    hint = nearest(impl, known) if isinstance(impl, str) else ""
    raise SoftmapError(
        f"impl must be one of {', '.join(['auto', *known])}, found {shown(impl)}{hint}"
    )


def _name(edit: Edit) -> str:
    return type(edit).__name__

"""What :func:`softmap.attention` refuses, each in one line. Nothing here waits for a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from softmap.errors import SoftmapError
from softmap.maps import STAGES, Edit, Tensors, chain, check_declared, check_names
from softmap.ops.documents import can_look


def check_inputs(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Shapes, dtype and device of q (B, H, T, d), k (B, G, S, d), v (B, G', S, d')."""
    for name, t in {"q": q, "k": k, "v": v}.items():
        if not isinstance(t, Tensor):
            raise SoftmapError(f"{name} must be a tensor, found {type(t).__name__}")
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if not q.ndim == k.ndim == v.ndim == 4:
        raise SoftmapError(f"q, k, v must be (batch, heads, tokens, width), found {shapes}")
    if q.shape[0] != k.shape[0] or k.shape[0] != v.shape[0]:
        raise SoftmapError(f"q, k, v must have one batch size, found {shapes}")
    if k.shape[2] != v.shape[2] or q.shape[2] > k.shape[2] or not q.shape[2]:
        raise SoftmapError(f"expected as many keys as values and 1..keys queries, found {shapes}")
    if q.shape[3] != k.shape[3]:
        raise SoftmapError(f"queries and keys must have one width, found {shapes}")
    if not q.dtype == k.dtype == v.dtype or not q.is_floating_point():
        raise SoftmapError(
            f"q, k, v must have one floating dtype, found {q.dtype}, {k.dtype}, {v.dtype}"
        )
    if not q.device == k.device == v.device:
        raise SoftmapError(
            f"q, k, v must be on one device, found {q.device}, {k.device}, {v.device}"
        )


def as_edits(edits: Any) -> list[Edit]:
    """The edits as a list; a name, a single edit or anything else in the list is refused."""
    if isinstance(edits, str):
        raise SoftmapError(
            f"edits must be a list of Edit modules, found the text {edits!r}: "
            "softmap.variants.build makes them, softmap.nn.Attention takes a variant by name"
        )
    if isinstance(edits, Edit) or not hasattr(edits, "__iter__"):
        raise SoftmapError(f"edits must be a list of Edit modules, found {type(edits).__name__}")
    made = list(edits)
    for edit in made:
        if not isinstance(edit, Edit):
            found = edit.__name__ if isinstance(edit, type) else type(edit).__name__
            what = "the class " if isinstance(edit, type) else ""
            raise SoftmapError(f"edits must be Edit modules, found {what}{found} among them")
        check_declared(edit)
    return made


def maps_after(edits: Sequence[Edit], maps: int) -> int:
    """Maps left by the edits of ``maps`` query heads; an edit made for another number is named."""
    for stage in STAGES:
        for _, edit in chain(edits, stage):
            if edit.maps not in (None, maps):
                raise SoftmapError(
                    f"{_name(edit)} was made for {edit.maps} maps, found {maps} "
                    f"{'query heads' if stage == 'scores' else 'maps that reach it'}"
                )
            maps = edit.heads_out(maps) if stage == "weights" else maps
    return maps


def check_x(x: Tensor, batch: int, keys: int) -> None:
    """x is (B, S, D)."""
    if x.ndim != 3 or x.shape[:2] != (batch, keys):
        raise SoftmapError(
            f"x must be (batch, keys, width) = ({batch}, {keys}, D), found {tuple(x.shape)}; "
            "with cached keys pass tensors= instead"
        )


def check_tensors(edits: Sequence[Edit], tensors: Any, batch: int, T: int, S: int) -> list[Tensors]:
    """One entry an edit; query tensors (b, T, ...), key tensors (b, S, ...), b = 1 or B."""
    groups = list(tensors)
    if len(groups) != len(edits):
        raise SoftmapError(
            f"tensors must hold one entry for each edit, expected {len(edits)}, found {len(groups)}"
        )
    for edit, group in zip(edits, groups, strict=True):
        if not isinstance(group, Tensors):
            raise SoftmapError(
                f"tensors must be what edit(x) gives for each, found {type(group).__name__} for "
                f"{_name(edit)}"
            )
        check_names(edit, group)
        for what, tokens, owned in (("query", T, group.query), ("key", S, group.key)):
            for name, t in owned.items():
                if t.ndim < 2 or t.shape[0] not in (1, batch) or t.shape[1] != tokens:
                    raise SoftmapError(
                        f"{_name(edit)}: {what} tensor {name!r} must be ({batch}, {tokens}, ...), "
                        f"found {tuple(t.shape)}"
                    )
    return groups


def check_packed(edits: Sequence[Edit], running: Any) -> None:
    """Of what documents cannot be packed with."""
    if running is not None:
        raise SoftmapError("running is the sum over one document: expected None with documents=")
    for edit in edits:
        if edit.halo:
            raise SoftmapError(
                f"{_name(edit)} reads {edit.halo} earlier rows, which may be another document's: "
                "expected edits without a halo with documents="
            )


def check_window(window: Any) -> None:
    """An integer of at least one key."""
    if isinstance(window, bool) or not isinstance(window, int | torch.SymInt):
        raise SoftmapError(f"window must be an integer number of keys, found {window!r}")
    if window < 1:
        raise SoftmapError(f"window must be at least 1 key (the query's own), found {window}")


def check_scale(scale: Any) -> None:
    """A finite number."""
    if isinstance(scale, bool) or not isinstance(scale, int | float | torch.SymFloat):
        raise SoftmapError(f"scale must be a number, found {type(scale).__name__}")
    if not math.isfinite(scale):
        raise SoftmapError(f"scale must be finite, found {scale}")


def check_mask(mask: Any, batch: int, keys: int) -> None:
    """A boolean mask (B, S); ones and zeros as integers will do, numbers to add will not."""
    if not isinstance(mask, Tensor) or mask.is_floating_point() or mask.is_complex():
        found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise SoftmapError(
            f"key_mask must be boolean, True at real keys (not numbers to add), found {found}"
        )
    if mask.shape != (batch, keys):
        raise SoftmapError(
            f"key_mask must be (batch, keys) = ({batch}, {keys}), found {tuple(mask.shape)}"
        )


def check_places(name: str, at: Any, batch: int, tokens: int) -> None:
    """Positions ``rows`` or ``cols`` are (b, tokens), b = 1 or B."""
    shape = tuple(at.shape) if isinstance(at, Tensor) else type(at).__name__
    if shape not in ((1, tokens), (batch, tokens)):
        raise SoftmapError(f"{name} must be ({batch}, {tokens}) or (1, {tokens}), found {shape}")


def check_increase(cols: Tensor, valid: Tensor | None, starts: Tensor | None) -> None:
    """Positions (b, S) increase over the real tokens of a document; not looked at on a GPU."""
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


def _name(edit: Edit) -> str:
    return type(edit).__name__

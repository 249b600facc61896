"""The forward kernel launched, its keys split among programs where rows are few."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from softmap.ops.triton.arguments import Chain, Grads, chain_of, own_tensors
from softmap.ops.triton.common import (
    bundle,
    dot_precision,
    launch,
    merge,
    next_power,
    whole_sum,
)
from softmap.ops.triton.configs import LEAST, Config, config, piece
from softmap.ops.triton.forward import forward as forward_kernel
from softmap.ops.triton.plan import Spec, named

# Programs that fill a GPU; where row tiles are fewer, the keys are split among several.
PROGRAMS, LEAST_SHARE = 132, 256


def forward(flat: list[Tensor], spec: Spec) -> tuple[Tensor, Tensor]:
    """Returns o (B, outputs, T, d') in v's dtype, and lse (B, H, T), log2 of each row's sum."""
    t = named(flat)
    (B, H, T, _), S, dv = t["q"].shape, t["k"].shape[2], t["v"].shape[3]
    sizes, constants = constants_of("forward", spec, t)
    scores, weights = chains(spec, t, flat)
    grid = grid_of(T, sizes.rows, B, spec)
    splits, share = _splits(grid, S, sizes)
    kept = constants["VP"] == constants["VC"]
    kind = t["v"].dtype if kept and splits == 1 else torch.float32
    o = accumulator((splits, B, spec.outputs, T, dv), kind, kept, t["q"])
    lse = torch.empty((splits, B, H, T), dtype=torch.float32, device=o.device)

    def run(phase: str, lse: Tensor) -> None:
        launch_sized(
            forward_kernel, (*grid, splits), sizes,
            *(bundle(t[n]) for n in "qkv"), (o, *o.stride()[1:4], o.stride(0)),
            (lse, *lse.stride()[1:3], lse.stride(0)), *mask(t), scores.args, weights.args,
            T, S, spec.scale, share, **constants, **edits(scores, "SCORE"),
            **edits(weights, "WEIGHT"), PHASE=phase,
        )  # fmt: skip

    if splits == 1:
        run("all", lse)
        return o[0].to(t["v"].dtype), lse[0]
    o, lse = _merged(run, o, lse, spec.mixes)
    return o.to(t["v"].dtype), lse


def _merged(
    run: Callable[[str, Tensor], None], o: Tensor, lse: Tensor, mixes: bool
) -> tuple[Tensor, Tensor]:
    """Returns o and lse of all keys. A split's o is normalised by its own sum or, in two passes, by
    the whole.
    """
    run("stats" if mixes else "all", lse)
    if not mixes:
        return merge(o, lse)
    whole = whole_sum(lse)
    run("edit", whole.expand_as(lse))
    return o.sum(0), whole


def _splits(grid: tuple[int, int], keys: int, sizes: Config) -> tuple[int, int]:
    """Returns (splits, keys of each): more than one where query rows are few, so that all of the
    GPU works.
    """
    splits = 1
    if grid[0] == 1:
        splits = max(1, min(PROGRAMS // grid[1], keys // LEAST_SHARE))
    share = _up(_up(keys, splits) // splits, sizes.keys)
    return _up(keys, share) // share, share


def _up(n: int, step: int) -> int:
    return (n + step - 1) // step * step


def grid_of(tokens: int, tile: int, batch: int, spec: Spec) -> tuple[int, int]:
    """Returns (tiles, sequences), or (tiles, sequences * heads) where a program takes one head."""
    return _up(tokens, tile) // tile, batch * (1 if spec.mixes else spec.heads[0])


def accumulator(shape: tuple[int, ...], dtype: torch.dtype, kept: bool, like: Tensor) -> Tensor:
    """Returns memory that a kernel writes once or, if not ``kept`` in registers, adds to in
    float32.
    """
    if kept:
        return torch.empty(shape, dtype=dtype, device=like.device)
    return torch.zeros(shape, dtype=torch.float32, device=like.device)


@lru_cache(maxsize=1)
def code() -> str:
    """Returns a digest of this folder's sources, which is a constant of every kernel.

    Triton keeps compiled kernels on disk by their own source and by the names of functions that are
    handed to them: a changed edit would be missed.
    """
    files = sorted(Path(__file__).parent.glob("*.py"))
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def launch_sized(
    kernel: Any, grid: tuple[int, ...], sizes: Config, *args: Any, **names: Any
) -> None:
    """Launches the kernel with tiles, warps and stages of these sizes."""
    launch(
        kernel, grid, *args, **names, CODE=code(), BM=sizes.rows, BN=sizes.keys,
        num_warps=sizes.warps, num_stages=sizes.stages,
    )  # fmt: skip


def padded(t: dict[str, Tensor]) -> tuple[int, int]:
    """Returns the widths of the heads of q and v as tiles have them: powers of two."""
    q, v = (max(LEAST, next_power(t[n].shape[3])) for n in "qv")
    return q, v


def constants_of(kernel: str, spec: Spec, t: dict[str, Tensor]) -> tuple[Config, dict[str, Any]]:
    """Returns tile sizes, and the constants that a kernel is compiled for."""
    heads, after = spec.tile_heads()
    DP, VP = padded(t)
    size = t["q"].element_size()
    sizes = config(kernel, heads, max(DP, VP), size, spec.low_rank)
    held = sizes.keys if kernel == "keys" else sizes.rows
    return sizes, {
        "D": t["q"].shape[3], "DV": t["v"].shape[3],
        "HEADS": spec.heads, "OUT": spec.outputs, "HT": heads, "HTO": after, "DP": DP, "VP": VP,
        "DC": piece(kernel, heads, held, DP, size), "VC": piece(kernel, after, held, VP, size),
        "PRECISION": dot_precision(t["q"].dtype),
    }  # fmt: skip


def chains(
    spec: Spec, t: dict[str, Tensor], flat: list[Tensor], grads: Grads | None = None
) -> tuple[Chain, Chain]:
    """Returns both stages as kernel arguments."""
    own, heads = own_tensors(spec, flat), (spec.heads[0], spec.tile_heads()[0])
    into = grads or (None, None)
    return (
        chain_of(spec.scores, heads, t, own[0], into[0]),
        chain_of(spec.weights, heads, t, own[1], into[1]),
    )


def edits(chain: Chain, name: str, adjoints: bool = False) -> dict[str, Any]:
    """Returns the constants of a stage."""
    found = {f"{name}S": chain.edits, f"{name}_OPTIONS": chain.options}
    return found | ({f"{name}_ADJOINTS": chain.adjoints} if adjoints else {})


def mask(t: dict[str, Tensor]) -> tuple[Any, Any]:
    """Returns bundles of until and first, or None where only causality hides keys."""
    batch = t["q"].shape[0]
    until, first = (t[n] if t[n].numel() else None for n in ("until", "first"))
    return bundle(until, batch), bundle(first, batch)

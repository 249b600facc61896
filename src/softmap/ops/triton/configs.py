"""Tile sizes as data, for an H100 or H200.

Chosen by arithmetic and by the registers and spills of the code compiled for sm_90
(``results/triton-sm90.json``). Of the others that were measured on an H200
(``results/gpu-h200.json``: 16 heads of 64, Triton 3.9) none was more than an eighth faster, and
most were slower.

One head a program: FlashAttention's sizes. All heads in a tile: a float32 tile of the map takes
4 * H * rows * keys bytes of the SM's 256 KiB of registers and the backward pass holds several, so
16 x 16 to 32 x 32. The accumulators take 4 * H * rows * d bytes; above ACCUMULATOR they stay in
memory (L2) and are added to in pieces of the width.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch

from softmap.files.cache import folder

# Bytes of accumulators that each kernel keeps in registers; ``keys`` has two sets.
ACCUMULATOR = {"forward": 128 << 10, "rows": 64 << 10, "keys": 64 << 10}
WIDEST_FLOAT32 = 64  # at 128, two heads need 288 KiB of shared memory, an H100 has 227
LEAST = 16  # of every axis of a product on the matrix units


class Config(NamedTuple):
    """rows and keys of a tile, warps of a program, stages of the pipelined loop over tiles."""

    rows: int
    keys: int
    warps: int
    stages: int


# By kernel and width of the widest head; by kernel and heads in the tile. The next larger is taken.
ONE_HEAD: dict[tuple[str, int], Config] = {
    ("forward", 64): Config(128, 64, 4, 3),
    ("forward", 128): Config(128, 64, 8, 3),
    ("forward", 256): Config(64, 64, 8, 2),
    ("rows", 64): Config(128, 64, 8, 2),
    ("rows", 128): Config(64, 64, 8, 2),
    ("rows", 256): Config(64, 32, 8, 1),
    ("keys", 64): Config(64, 128, 8, 2),
    ("keys", 128): Config(64, 64, 8, 2),
    ("keys", 256): Config(32, 64, 8, 1),
}
# One head a program beside compositions of low rank, whose maps take registers too: the fastest of
# five to twelve on an H100 (results/gpu-h100.json).
LOW_RANK: dict[tuple[str, int], Config] = {
    ("forward", 64): Config(64, 64, 4, 2),
    ("forward", 128): Config(64, 64, 4, 2),
    ("rows", 64): Config(128, 64, 8, 2),
    ("rows", 128): Config(64, 32, 4, 1),
    ("keys", 64): Config(32, 64, 4, 2),
    ("keys", 128): Config(32, 64, 4, 1),
    ("sums", 64): Config(64, 32, 4, 2),
    ("sums", 128): Config(64, 64, 8, 3),
}
# Fewer warps or larger tiles spill registers; more warps repeat work outside of the tile.
ALL_HEADS: dict[tuple[str, int], Config] = {
    ("forward", 64): Config(16, 16, 8, 1),
    ("rows", 64): Config(16, 16, 8, 1),
    ("keys", 64): Config(16, 16, 8, 1),
}
_override: list[tuple[str | None, Config]] = []


def config(kernel: str, heads: int, width: int, bytes_: int, low_rank: bool = False) -> Config:
    """Returns the sizes for ``kernel``, by the heads of a tile (0: one a program), the widest head,
    the bytes of an element of q, and whether there are compositions of low rank.

    They are an override, else what was measured on this machine, else those of the tables.
    """
    for name, sizes in reversed(_override):
        if name in (None, kernel):
            return sizes
    kind = (kernel, heads, width, bytes_, low_rank)
    return tuned().get(key(*kind)) or _shipped(*kind)


def _shipped(kernel: str, heads: int, width: int, bytes_: int, low_rank: bool) -> Config:
    table, size = (ALL_HEADS, heads) if heads else (LOW_RANK if low_rank else ONE_HEAD, width)
    sizes = sorted(s for name, s in table if name == kernel)
    found = table[kernel, next((s for s in sizes if s >= size), sizes[-1])]
    if bytes_ == 4 and not heads:  # float32 takes twice the shared memory
        found = found._replace(rows=max(LEAST, found.rows // 2), stages=1)
    return found


def piece(kernel: str, heads: int, rows: int, width: int, bytes_: int) -> int:
    """Returns how much of the (padded) width is taken at a time: all if the accumulator fits."""
    if not heads:
        return width
    if bytes_ == 4:  # products of all heads in float32 pass through shared memory
        width = min(width, WIDEST_FLOAT32)
    while width > LEAST and 4 * heads * rows * width > ACCUMULATOR[kernel]:
        width //= 2
    return width


def key(kernel: str, heads: int, width: int, bytes_: int, low_rank: bool = False) -> str:
    """Returns the key by which sizes are looked up."""
    return f"{kernel} heads {heads} width {width} bytes {bytes_}" + " low rank" * low_rank


def cache_file() -> Path:
    """Returns the file of the sizes that were measured here: one for each model of GPU."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return folder() / f"triton-{re.sub(r'[^A-Za-z0-9]+', '-', name)}.json"


@lru_cache(maxsize=1)
def tuned() -> dict[str, Config]:
    """Returns the sizes that benchmarks/triton_tune.py measured here; none where the file is
    missing or unreadable.
    """
    try:
        rows = json.loads(cache_file().read_text(encoding="utf-8"))
        return {name: Config(*(int(n) for n in row)) for name, row in rows.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


@contextmanager
def override(
    rows: int, keys: int, warps: int = 4, stages: int = 1, kernel: str | None = None
) -> Iterator[None]:
    """Use fixed sizes for one kernel, or for every one: in tests, and to measure others."""
    _override.append((kernel, Config(rows, keys, warps, stages)))
    try:
        yield
    finally:
        _override.pop()

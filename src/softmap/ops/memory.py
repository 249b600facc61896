"""Out of memory: which call it was, and which choice would take less."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from softmap.ops.call import Call, Span


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is torch's own error of a GPU, or the message of the CPU's allocator."""
    texts = ("can't allocate memory", "out of memory", "bytes not available")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(t in str(error) for t in texts)
    )


def map_bytes(call: Call, spans: list[Span]) -> int:
    """Returns the bytes of the largest map tensor of the bands ``spans``: sequences x maps x
    rows x keys.
    """
    cells = (
        (s.end - s.begin) * (s.stop - s.start + s.lead) * (s.last - s.first + call.pad)
        for s in spans
    )
    return call.row_bytes(max(cells))


def message(call: Call, impl: str, backends: Mapping[str, ModuleType]) -> str:
    """Returns one line: the call, the bytes of one map in ``impl``, and the backend that takes
    least.
    """
    B, H, T, d = call.q.shape
    found = {name: b.map_bytes(call) for name, b in backends.items() if hasattr(b, "map_bytes")}
    own = f", one map tensor takes {found[impl]:,} bytes" if impl in found else ""
    least = min(found, key=found.__getitem__)
    smaller = f"; impl={least!r} takes {found[least]:,} a map tensor" if least != impl else ""
    return (
        f"out of memory in attention with impl={impl!r}: batch {B}, {H} maps of {T} x {call.keys}, "
        f"width {d}{own}{smaller or '; a smaller batch takes less'}"
    )

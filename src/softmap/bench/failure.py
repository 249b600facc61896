"""Running out of memory, and other failures, reported in one line."""

from __future__ import annotations

import re

import torch

from softmap.errors import SoftmapError
from softmap.lab import preflight
from softmap.ops import memory

UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_TRIED = re.compile(r"ried to allocate ([\d.]+) (bytes|KiB|MiB|GiB|TiB)")


class TooLarge(RuntimeError):
    """Raised before a run that would not fit into the machine's memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether memory ran out, or would have."""
    return isinstance(error, TooLarge) or memory.is_out_of_memory(error)


def tried_bytes(error: BaseException) -> int | None:
    """Returns the bytes of the allocation that failed, if the message states them."""
    found = _TRIED.search(str(error))
    return int(float(found[1]) * UNITS[found[2]]) if found else None


def require(need: int, device: torch.device, what: str) -> None:
    """Raise ``SoftmapError`` where ``what`` needs more bytes than the device has."""
    if need > (there := preflight.memory(device)):
        raise SoftmapError(
            f"{what}: needs at least {size(need)} of memory, {device.type} has {size(there)}: "
            "lower the sizes"
        )


def size(count: float) -> str:
    """Returns a number of bytes in words: 1536000000 as ``1.5 GB``."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"

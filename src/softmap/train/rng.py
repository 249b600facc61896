"""The global random states (torch on CPU and CUDA, numpy, python) as JSON values."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


def seed(value: int) -> None:
    """Seed all global generators."""
    torch.manual_seed(value)  # CUDA too
    np.random.seed(value % 2**32)
    random.seed(value)


def snapshot() -> dict[str, Any]:
    """Returns the present random states; ``restore`` sets exactly these again."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    cuda = [torch.cuda.get_rng_state(device) for device in _devices()]
    return {
        "torch": _to_text(torch.get_rng_state()),
        "cuda": [_to_text(state) for state in cuda],
        "numpy": [name, keys.tolist(), position, has_gauss, cached],  # type: ignore[attr-defined]
        "python": list(random.getstate()),
    }


def restore(state: dict[str, Any]) -> None:
    """Set the random states of a ``snapshot``, also of one that went through JSON."""
    torch.set_rng_state(_to_tensor(state["torch"]))
    if len(state["cuda"]) == len(devices := _devices()):
        for device, text in zip(devices, state["cuda"], strict=True):
            torch.cuda.set_rng_state(_to_tensor(text), device)
    np.random.set_state(tuple(state["numpy"]))
    version, keys, gauss_next = state["python"]
    random.setstate((version, tuple(keys), gauss_next))


@contextmanager
def preserved() -> Iterator[None]:
    """Restore the random states after the block."""
    before = snapshot()
    try:
        yield
    finally:
        restore(before)


def _devices() -> list[int]:
    """Returns the GPUs whose states belong to this process; with several processes each has one."""
    if not torch.cuda.is_available():
        return []
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return [torch.cuda.current_device()]
    return list(range(torch.cuda.device_count()))


def _to_text(state: Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _to_tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)

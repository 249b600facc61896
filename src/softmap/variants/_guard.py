"""Keeps a file of the user's own from changing torch, which all variants share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from softmap.errors import SoftmapError

_PLACES = {
    "torch": torch,
    "torch.Tensor": torch.Tensor,
    "torch.nn": torch.nn,
    "torch.nn.functional": torch.nn.functional,
}


@contextmanager
def untouched() -> Iterator[None]:
    """Raise ``SoftmapError`` if the block replaces a function or a setting of torch: the
    variants that it is compared with would be trained with it too.
    """
    places = {name: dict(vars(place)) for name, place in _PLACES.items()}
    settings = _settings()
    yield
    changed = [name for name, value in _settings().items() if settings[name] != value]
    for name, before in places.items():
        now = vars(_PLACES[name])
        changed += [f"{name}.{key}" for key, value in before.items() if now.get(key) is not value]
    if changed:
        raise SoftmapError(
            f"it changes {changed[0]}: expected torch as it was, which all variants share"
        )


def _settings() -> dict[str, Any]:
    return {
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
    }

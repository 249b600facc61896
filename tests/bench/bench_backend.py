"""A backend that can be made wrong, and nothing that takes long beside."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor

from softmap.ops import BACKENDS, reference
from softmap.ops.call import Call

Spoil = Callable[[Tensor, Call], Tensor]
AddBackend = Callable[..., None]


@pytest.fixture
def add_backend(monkeypatch: pytest.MonkeyPatch) -> AddBackend:
    """``add_backend(name, spoil)``: a backend that runs ``reference`` and spoils its output."""

    def add(name: str, spoil: Spoil, why: str | None = None) -> None:
        def run(call: Call) -> Tensor:
            return spoil(reference.run(call), call)

        module: Any = SimpleNamespace(refuses=lambda call: why, run=run)
        monkeypatch.setitem(BACKENDS, name, module)

    return add


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares each command the collections of garbage before each peak."""
    monkeypatch.setattr("softmap.lab.peak_memory._release", lambda: None)

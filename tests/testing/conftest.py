"""Tiny tensors: one thread is faster than two, and leaves the machine to the other workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variants in this folder's files are named by their file alone."""
    monkeypatch.chdir(HERE)

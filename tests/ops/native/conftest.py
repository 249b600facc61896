"""Without a compiler there is nothing to test here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch._inductor.config  # reads CXX when it is imported: before a test sets it

from softmap.errors import SoftmapError
from softmap.ops.native import build


@pytest.fixture(autouse=True)
def _compiler() -> None:
    try:
        build.compiler()
    except SoftmapError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Tests may set the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)

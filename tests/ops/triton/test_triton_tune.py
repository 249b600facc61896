"""Tile sizes found by measuring are kept, and used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from triton_cases import Case

from softmap.errors import SoftmapError


def test_tuning_keeps_the_fastest_that_fits(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import triton_tune as tune

    from softmap.ops.triton import configs

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    configs.tuned.cache_clear()

    def timer(run: Any) -> float:
        """No size fits but two, of which the one with more warps is the faster."""
        _, sizes = configs._override[-1]
        if (sizes.rows, sizes.keys) != (16, 16):
            raise SoftmapError("too large")
        return 1.0 / sizes.warps + sizes.stages

    call = Case("dcmha(query=false)", heads=2, batch=1, tokens=5).call(torch.float32, device)
    found = tune.tune(call, timer)
    assert set(found.values()) == {configs.Config(16, 16, 8, 1)} and len(found) == 3
    assert configs.config("rows", 16, 16, 4) == configs.Config(16, 16, 8, 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    configs.tuned.cache_clear()
    assert configs.config("rows", 16, 16, 4) == configs._shipped("rows", 16, 16, 4, False)
    configs.tuned.cache_clear()


def test_products_in_float32_take_wide_heads_in_pieces() -> None:
    """Two heads of 128 channels at once would need 288 KiB of shared memory."""
    from softmap.ops.triton import configs

    for kernel in configs.ACCUMULATOR:
        assert configs.piece(kernel, 2, 16, 128, 4) == 64
        assert configs.piece(kernel, 2, 16, 128, 2) == 128
    assert configs.piece("forward", 0, 128, 128, 4) == 128

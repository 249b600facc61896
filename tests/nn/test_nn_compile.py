"""``torch.compile`` and variable lengths: a few graphs for all, as of torch's own layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import softmap
from softmap.nn import Attention
from softmap.testing.subject import perturb

VARIANTS = ["transformer++", "diff", "dcmha", "dape", "alibi"]
Run = Callable[[Tensor], Tensor]


def layer(variant: str, **options: Any) -> Attention:
    torch.manual_seed(0)
    return perturb(Attention(16, 2, variant, **options)).double()  # type: ignore[no-any-return]


class Called(nn.Module):
    """``softmap.attention`` in a module of one's own."""

    def __init__(self, variant: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.edits = softmap.edits(variant, heads=2, head_dim=8)
        s = self.edits.shapes
        self.widths = [s.maps * 8, 2 * 8, s.values(2) * s.value_dim]
        self.each = [8, 8, s.value_dim]
        self.project = nn.Linear(16, sum(self.widths))
        perturb(self.double())

    def forward(self, x: Tensor) -> Tensor:
        parts = self.project(x).split(self.widths, -1)
        q, k, v = (
            p.unflatten(-1, (-1, d)).transpose(1, 2) for p, d in zip(parts, self.each, strict=True)
        )
        return softmap.attention(q, k, v, self.edits, x=x)


def graphs(run: nn.Module, sizes: Iterable[tuple[int, int]], train: bool, full: bool = True) -> int:
    """How many are made for all sizes (B, T), each of whose outputs and gradients is right."""
    torch.compiler.reset()
    counter = CompileCounter()
    compiled = torch.compile(run, backend=counter, fullgraph=full)
    for B, T in sizes:
        x = torch.randn(B, T, 16, dtype=torch.float64, requires_grad=train)
        with torch.set_grad_enabled(train):
            got, want = compiled(x), run(x)
        torch.testing.assert_close(got, want)
        if train:
            grads = [torch.autograd.grad(y.cos().sum(), x)[0] for y in (got, want)]
            torch.testing.assert_close(*grads)
    return counter.frame_count


@pytest.mark.slow
def test_lengths_are_open() -> None:
    """The first length, and any other."""
    for run in (layer("dcmha"), Called("diff")):
        assert graphs(run, [(2, T) for T in (9, 2, 5, 33, 12)], train=True) <= 2


@pytest.mark.slow
def test_bands_are_not_compiled_for_each_length() -> None:
    """They break the graph; what lies before and after them is as open as elsewhere."""
    run = layer("diff", impl="chunked")
    few = graphs(run, [(2, T) for T in (9, 5, 12)], train=True, full=False)
    assert graphs(run, [(2, T) for T in (9, 5, 12, 7, 33, 2)], train=True, full=False) == few


@pytest.mark.slow
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_graphs_of_32_lengths_are_few(variant: str, train: bool) -> None:
    for run in (layer(variant), Called(variant)):
        for B in (1, 2):
            assert graphs(run, [(B, T) for T in range(2, 34)], train) <= 2
        assert graphs(run, [(1 + T % 4, T) for T in range(2, 34)], train) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["transformer++", "dape", "diff"])
def test_graphs_of_32_lengths_with_dynamic(variant: str) -> None:
    torch.compiler.reset()
    own, counter = layer(variant), CompileCounter()
    run = torch.compile(own, backend=counter, dynamic=True)
    with torch.no_grad():
        for T in range(1, 34):
            x = torch.randn(1, T, 16, dtype=torch.float64)
            torch.testing.assert_close(run(x), own(x))
    assert counter.frame_count <= 3

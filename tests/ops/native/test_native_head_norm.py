"""Differential attention's norm of each head, as the native backend computes it."""

from __future__ import annotations

import pytest
import torch
from native_cases import Case
from torch import Tensor

from softmap.ops import attention, native
from softmap.variants import Place
from softmap.variants.diff import HeadNorm


def made(width: int) -> HeadNorm:
    norm = HeadNorm(Place(4, 4 * width, width, width, 2, 4))
    with torch.no_grad():
        norm.weight.normal_()
    return norm.double()


def both(norm: HeadNorm, x: Tensor) -> list[tuple[Tensor, ...]]:
    """Output and gradients of x and of the weight: by the kernel, and by the edit itself."""
    upstream = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).cos().view_as(x).to(x.dtype)
    found = []
    for run in (native.output, lambda edit, o, t: edit.edit(o, None, t)):
        leaf, weight = x.clone().requires_grad_(), norm.weight.detach().clone().requires_grad_()
        out = run(norm, leaf, {"weight": weight})
        found.append((out.detach(), *torch.autograd.grad(out, (leaf, weight), upstream)))
    return found


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", [(2, 3, 70, 20), (1, 1, 1, 7), (0, 2, 5, 8)], ids=str)
def test_same_as_the_edit(shape: tuple[int, ...], threads: int) -> None:
    native.build.ready()
    torch.set_num_threads(threads)
    for got, want in zip(*both(made(shape[-1]), torch.randn(shape).double()), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    native.build.ready()
    norm, x = made(24), torch.randn(2, 3, 50, 24).to(dtype)
    ours, plain = both(norm, x)
    truth = both(norm, x.double())[1]
    for got, eager, want in zip(ours, plain, truth, strict=True):
        allowed = 2 * max((eager.double() - want).norm(), torch.finfo(dtype).eps * want.norm())
        assert (got.double() - want).norm() <= allowed


def test_rows_that_do_not_follow_each_other() -> None:
    native.build.ready()
    norm, x = made(8), torch.randn(2, 5, 3, 8).double().transpose(1, 2)
    for got, want in zip(*both(norm, x), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_operators_are_whole() -> None:
    native.build.ready()
    x, w = torch.randn(2, 3, 4, requires_grad=True), torch.randn(4, requires_grad=True)
    torch.library.opcheck(torch.ops.softmap_native.rms_norm, (x, w, 1e-5))


def test_attention_takes_it() -> None:
    call = Case("diff").call(torch.float32)
    norm = HeadNorm(Place(4, 32, 8, call.v.shape[-1], 2, 4))
    edits = [*call.edits, norm]
    want, got = (attention(call.q, call.k, call.v, edits, impl=n) for n in ("reference", "native"))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)

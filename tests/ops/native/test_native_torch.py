"""The operators among those of PyTorch: opcheck, compiling, strides, some gradients, limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from native_cases import Case, results, same_as_reference
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from softmap.errors import SoftmapError
from softmap.nn import Attention
from softmap.nn.positions import Positions
from softmap.ops import attention, native, reference
from softmap.ops.call import Call
from softmap.testing.compare import assert_same


class Recorded(TorchDispatchMode):
    """The native operators that are called, with copies of what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "softmap_native":
            self.calls.append((func, copied(args)))
        return func(*args, **(kwargs or {}))


def copied(args: Any) -> Any:
    if isinstance(args, Tensor):
        return args.detach().clone()
    return type(args)(map(copied, args)) if isinstance(args, list | tuple) else args


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str
)
@pytest.mark.parametrize("variant", ["dcmha(static=true)", "diff2", "sas", "dape", "fire"])
def test_opcheck(variant: str, dtype: torch.dtype) -> None:
    call = Case(variant, tokens=5, left=1).call(dtype)
    with Recorded() as recorded:
        results(native.run, call)
    assert len(recorded.calls) == (4 if variant == "sas" else 2)
    for function, args in recorded.calls:
        if "backward" not in str(function):
            args = tuple(
                a.requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a
                for a in args
            )
        torch.library.opcheck(function, args)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [{}, {"left": 3}, {"packed": (10, 27)}], ids=str)
@pytest.mark.parametrize("variant", ["dcmha(static=true)", "diff", "alibi", "dape", "sas"])
def test_compiled_whole(variant: str, layout: dict) -> None:
    """One graph; its output and gradients are the reference's."""
    torch.compiler.reset()
    case = Case(variant, **layout)
    call, documents = case.call(), case.documents()

    @torch.compile(fullgraph=True)
    def compiled(q: Tensor, k: Tensor, v: Tensor, tensors: Any, mask: Tensor | None) -> Tensor:
        return attention(
            q, k, v, call.edits, tensors=tensors, key_mask=mask, documents=documents, impl="native"
        )

    want = results(reference.run, call)
    got = results(lambda c: compiled(c.q, c.k, c.v, c.tensors, c.valid), call)
    for name, value in want.items():
        assert_same(got[name], value, f"{name} of {case}, compiled")


@pytest.mark.parametrize(
    "variant", ["transformer++", pytest.param("dcmha", marks=pytest.mark.slow), "diff"]
)
def test_layers_are_captured_whole(variant: str) -> None:
    """Two layers, projections and positions included, as one graph."""
    torch.compiler.reset()
    layers, x = [Attention(16, 4, variant, layer=n) for n in range(2)], torch.randn(2, 9, 16)

    def run(x: Tensor) -> Tensor:
        positions = Positions.of(x.shape[1], None, x.device)
        for layer in layers:
            x = x + layer(x, positions)
        return x

    captured = torch.compile(run, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(captured(x), run(x))


@pytest.mark.slow
def test_compiled_code_tells_a_mask_with_a_hole() -> None:
    torch.compiler.reset()
    call = Case("dcmha", tokens=8).call()
    mask = torch.ones(2, 8, dtype=torch.bool)

    @torch.compile(fullgraph=True)
    def compiled(mask: Tensor) -> Tensor:
        return attention(
            call.q, call.k, call.v, call.edits, tensors=call.tensors, key_mask=mask, impl="native"
        )

    compiled(mask)
    mask[1, 4] = False
    with pytest.raises(RuntimeError, match="hides keys in the middle of a row; 'chunked' can"):
        compiled(mask)


@pytest.mark.parametrize("variant", ["dcmha(static=true)", "diff2", "sas", "dape"])
def test_any_strides(variant: str) -> None:
    """Transposed, cut from something wider, and one sequence expanded over the batch."""
    call = Case(variant, batch=3, tokens=35).call()
    want = results(reference.run, call)
    for change in (turned, cut):
        got = results(lambda c, change=change: native.run(changed(c, change)), call)
        for name, value in want.items():
            assert_same(got[name], value, f"{name}, {change.__name__}")
    shared = changed(call, lambda t: t[:1].expand(3, *t.shape[1:]))
    assert_same(native.run(shared), reference.run(shared), "expanded")


def changed(call: Call, change: Any) -> Call:
    kinds, flat = call.flatten()
    pairs = zip(kinds, flat, strict=True)
    return call.unflatten([t if kind == "layer" else change(t) for kind, t in pairs])


def turned(t: Tensor) -> Tensor:
    return t.transpose(1, 2).contiguous().transpose(1, 2)


def cut(t: Tensor) -> Tensor:
    return torch.stack([t, t], -1)[..., 1]


@pytest.mark.parametrize("variant", ["dcmha(static=true)", "diff2"])
def test_tensors_that_all_sequences_share(variant: str) -> None:
    call = Case(variant, batch=3, tokens=35).call()
    flat = call.flatten()[1]
    shared = call.unflatten([*flat[:3], *(t[:1] if t.ndim > 2 else t for t in flat[3:])])
    want, got = results(reference.run, shared), results(native.run, shared)
    for name, value in want.items():
        assert_same(got[name], value, name)


@pytest.mark.parametrize("variant", ["dcmha(static=true)", "sas", "dape"])
def test_gradients_of_some_inputs(variant: str) -> None:
    call = Case(variant, tokens=20).call()
    want = list(results(native.run, call).values())[1:]
    for n in range(len(want)):
        leaves = [t.detach().requires_grad_(i == n) for i, t in enumerate(call.flatten()[1])]
        out = native.run(call.unflatten(leaves))
        upstream = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).cos().view_as(out)
        out.backward(upstream)
        assert torch.equal(leaves[n].grad, want[n])
        assert sum(t.grad is not None for t in leaves) == 1


@pytest.mark.parametrize("variant", ["dcmha(static=true)", "diff2+sas", "sas", "dape", "fire"])
def test_an_empty_batch(variant: str) -> None:
    same_as_reference(Case(variant, batch=0))


@pytest.mark.parametrize("variant", ["dcmha", "sas"])
def test_second_derivatives_are_refused(variant: str) -> None:
    call = Case(variant, tokens=5).call()
    q = call.q.clone().requires_grad_()
    out = native.run(call.unflatten([q, *call.flatten()[1][1:]]))
    (first,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(SoftmapError, match=r"no second derivatives: .* impl='reference' have"):
        first.sum().backward()

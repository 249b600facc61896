"""Second derivatives and transforms of functions by every backend: the reference's, or one line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian as autograd_hessian
from torch.autograd.functional import jacobian
from torch.func import functional_call, grad, hessian, jacrev, jvp, stack_module_state, vmap
from torch.utils.checkpoint import checkpoint

from softmap.errors import SoftmapError
from softmap.nn import Attention
from softmap.ops import choose
from softmap.testing.compare import assert_same
from softmap.testing.subject import CheckSubject, call_of

VARIANTS = ("transformer++", "diff", "dcmha(static=true)", "dape", "sas", "talking-heads")
NAMED = ("native", "folded", "chunked", "compiled")


def subject(variant: str) -> tuple[Attention, Tensor]:
    of = CheckSubject(variant, heads=2, head_dim=4)
    return of.layer(), of.input(2, 5)


def takes(layer: Attention, x: Tensor, impl: str) -> bool:
    try:
        return choose(call_of(layer, x), impl) == impl
    except SoftmapError:
        return False


def loss(layer: Attention, x: Tensor) -> Tensor:
    return layer(x).pow(2).sum()


def second(layer: Attention, x: Tensor) -> list[Tensor]:
    """The gradient of the gradient's squares: by the input and every parameter."""
    ends = [x.clone().requires_grad_(), *layer.parameters()]
    first = torch.autograd.grad(loss(layer, ends[0]), ends, create_graph=True, allow_unused=True)
    total: Any = sum(g.pow(2).sum() for g in first if g is not None)
    found = torch.autograd.grad(total, ends, allow_unused=True)
    return [torch.zeros_like(e) if g is None else g for e, g in zip(ends, found, strict=True)]


@pytest.mark.parametrize("impl", ["auto", "native", "folded", "chunked"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_second_derivatives_are_the_references(variant: str, impl: str) -> None:
    layer, x = subject(variant)
    if impl != "auto" and not takes(layer, x, impl):
        pytest.skip(f"{impl} does not run {variant}")
    layer.impl = "reference"
    want = second(layer, x)
    layer.impl = impl
    for n, (got, right) in enumerate(zip(second(layer, x), want, strict=True)):
        assert_same(got, right, f"second derivative {n}")


def test_gradient_that_leads_nowhere_else() -> None:
    """A loss that is linear in the output: torch's once_differentiable would be silent."""
    layer, x = subject("dcmha")
    values = {}
    for layer.impl in ("reference", "chunked", "native"):
        end = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(layer(end).sum(), end, create_graph=True)
        values[layer.impl] = torch.autograd.grad(g.pow(2).sum(), end)[0]
    assert_same(values["chunked"], values["reference"], "chunked")
    assert_same(values["native"], values["reference"], "native")


def test_inputs_that_are_made_of_each_other() -> None:
    """k = 2q: the path through k is counted once."""
    from softmap.ops import attention

    found = []
    for impl in ("reference", "chunked", "folded"):
        q = torch.randn(1, 2, 5, 4, dtype=torch.float64, generator=torch.manual_seed(0))
        q.requires_grad_()
        out = attention(q, q * 2, q.sin(), impl=impl).pow(2).sum()
        (g,) = torch.autograd.grad(out, q, create_graph=True)
        found.append(torch.autograd.grad(g.pow(2).sum(), q)[0])
    assert_same(found[1], found[0], "chunked")
    assert_same(found[2], found[0], "folded")


def test_forms_without_second_derivatives_say_so() -> None:
    from softmap.ops import chunked

    layer, x = subject("diff")
    call = call_of(layer, x)
    with pytest.raises(SoftmapError, match=r"no second derivatives .*impl='reference'"):
        torch.autograd.grad(chunked.run(call).sum(), call.q, create_graph=True)


def _grad(layer: Attention, x: Tensor) -> Tensor:
    return grad(partial(loss, layer))(x)


def _jvp(layer: Attention, x: Tensor) -> Tensor:
    return jvp(layer, (x,), (x.cos(),))[1]


def _forward_mode(layer: Attention, x: Tensor) -> Tensor:
    from torch.autograd import forward_ad

    with forward_ad.dual_level():
        out = layer(forward_ad.make_dual(x, x.cos()))
        return forward_ad.unpack_dual(out).tangent


def _ensemble(layer: Attention, x: Tensor) -> Tensor:
    other = copy.deepcopy(layer)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.1)
    parameters, buffers = stack_module_state([layer, other])  # type: ignore[arg-type]
    return vmap(lambda p, b: functional_call(layer, (p, b), (x,)))(parameters, buffers)


def _per_sample(layer: Attention, x: Tensor) -> Tensor:
    state = {n: p.detach() for n, p in layer.named_parameters()}
    one = grad(lambda p, x: functional_call(layer, p, (x[None],)).pow(2).sum())
    found = vmap(one, in_dims=(None, 0))(state, x)
    return torch.cat([g.flatten() for g in found.values()])


TRANSFORMS: dict[str, Callable[[Attention, Tensor], Tensor]] = {
    "grad": _grad,
    "jvp": _jvp,
    "forward mode": _forward_mode,
    "vmap": lambda layer, x: vmap(lambda one: layer(one[None])[0])(x),
    "ensemble": _ensemble,
    "per sample": _per_sample,
    "jacrev": lambda layer, x: jacrev(layer)(x[:1, :3]),
    "hessian": lambda layer, x: hessian(partial(loss, layer))(x[:1, :2]),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_transform_by_auto_is_right(variant: str, transform: str) -> None:
    """Against plain autograd of the reference, or finite differences of it."""
    layer, x = subject(variant)
    got = TRANSFORMS[transform](layer, x)
    layer.impl = "reference"
    if transform == "grad":
        end = x.clone().requires_grad_()
        want = torch.autograd.grad(loss(layer, end), end)[0]
    elif transform in ("jvp", "forward mode"):
        step = 1e-6 * x.cos()
        want = (layer(x + step) - layer(x - step)).detach() / 2e-6
        return assert_same(got, want, transform, tolerance=1e-6)
    elif transform == "vmap":
        want = layer(x)
    elif transform == "jacrev":
        want = jacobian(layer, x[:1, :3])  # type: ignore[assignment]
    elif transform == "hessian":
        want = autograd_hessian(partial(loss, layer), x[:1, :2])  # type: ignore[assignment]
    else:
        want = TRANSFORMS[transform](layer, x)
        assert want[0].isfinite().all()
    assert_same(got, want, transform)
    return None


@pytest.mark.parametrize("transform", ["grad", "jvp", "forward mode", "vmap", "hessian"])
@pytest.mark.parametrize("impl", NAMED)
def test_other_backends_name_the_one_that_can(impl: str, transform: str) -> None:
    layer, x = subject("transformer++")
    layer.impl = impl
    with pytest.raises(SoftmapError, match=f"impl='{impl}' cannot run this: .*'reference' can$"):
        TRANSFORMS[transform](layer, x)


@pytest.mark.parametrize("variant", ["diff", "dcmha", "dape"])
def test_batches_of_gradients(variant: str) -> None:
    layer, x = subject(variant)
    got = jacobian(layer, x[:1, :3], vectorize=True)
    assert_same(got, jacobian(layer, x[:1, :3]), "jacobian")  # type: ignore[arg-type]


@pytest.mark.parametrize("impl", ["auto", "chunked", "reference"])
def test_contexts_of_autograd_change_nothing(impl: str) -> None:
    layer, x = subject("dcmha")
    layer.impl = impl
    end = x.requires_grad_()
    (want,) = torch.autograd.grad(loss(layer, end), end)
    for reentrant in (False, True):
        out = checkpoint(partial(loss, layer), end, use_reentrant=reentrant)
        out.backward()  # type: ignore[union-attr]
        assert_same(end.grad, want, f"checkpoint, reentrant={reentrant}")  # type: ignore[arg-type]
        end.grad = None
    with torch.autograd.graph.save_on_cpu():
        out = loss(layer, end)
    assert_same(torch.autograd.grad(out, end)[0], want, "save_on_cpu")
    with torch.inference_mode():
        assert_same(layer(end), layer(end.detach()), "inference mode")

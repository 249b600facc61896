"""Checks of an edit's parameters: how they may be held, and that they can always be trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from softmap.errors import reason
from softmap.maps import Edit
from softmap.nn.positions import Positions
from softmap.testing.compare import ROWS, assert_same
from softmap.testing.layers import Note
from softmap.testing.subject import CheckSubject

# Where an optimiser may have pushed every element of a parameter.
FAR = (-5.0, 5.0)


def parameters(subject: CheckSubject) -> Note:
    """Parameters have an axis that can be sharded, are read only while their own module is called
    (offloading loads them then and no longer), and have a gradient wherever they are."""
    _have_an_axis(subject)
    _are_read_when_called(subject)
    layer, x = subject.layer(), subject.input(2, 16)
    q, k, _ = layer.project(x, Positions.of(16, None, x.device))
    for edit in layer.edits:
        _come_back(edit, (x, q.detach(), k.detach()))  # type: ignore[arg-type]
    return None


def _have_an_axis(subject: CheckSubject) -> None:
    for name, p in subject.layer().named_parameters():
        assert p.ndim, f"parameter {name} has the shape (), which FSDP2 cannot shard: expected (1,)"


@torch.no_grad()
def _are_read_when_called(subject: CheckSubject) -> None:
    layer, x = subject.layer(), subject.input(2, 9)
    want = layer(x)
    for module in layer.modules():
        _offload(module)
    what = "output with every parameter on the meta device but while its own module is called"
    try:
        got = layer(x)
    except (RuntimeError, ValueError) as error:
        raise AssertionError(
            "a parameter is read while its own module is not called (self.mlp.weight from outside, "
            f"or inside edit), where offloading has it on the meta device: {reason(error)}"
        ) from error
    # To rounding: copies of the same numbers elsewhere in memory are multiplied in another order.
    assert_same(got, want, what, sides=("offloaded", "in memory"), axes=ROWS)


def _offload(module: nn.Module) -> None:
    """Do what the hooks of offloading libraries do: replace the parameters, and put them back only
    around the module's own forward.
    """
    real = dict(module._parameters)
    away = {n: None if p is None else nn.Parameter(p.to("meta")) for n, p in real.items()}

    def load(module: nn.Module, args: Any) -> None:
        module._parameters.update(real)

    def unload(module: nn.Module, args: Any, output: Any) -> None:
        module._parameters.update(away)

    module._parameters.update(away)
    module.register_forward_pre_hook(load)
    module.register_forward_hook(unload)


def _come_back(edit: Edit, given: tuple[Tensor, Tensor, Tensor]) -> None:
    for name, p in edit.named_parameters():
        used, start = _gradients(edit, p, given), p.detach().clone()
        for value in FAR:
            with torch.no_grad():
                p.fill_(value)
            lost = used & ~_gradients(edit, p, given)
            with torch.no_grad():
                p.copy_(start)
            assert not lost.any(), (
                f"{type(edit).__name__}.{name} has no gradient at {value:g} in either direction: "
                f"once there, it stays for ever (maps.at_least keeps the way back open)"
            )


def _gradients(edit: Edit, p: Tensor, given: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Returns where p has a gradient from the tensors that the edit returns, for one of two
    opposite losses.
    """
    made = [t for group in edit(*given) for t in group.values() if t.requires_grad]
    found = torch.zeros_like(p, dtype=torch.bool)
    for sign in (1.0, -1.0):
        up = [sign * torch.linspace(-1, 1.1, t.numel()).view_as(t).to(t.dtype) for t in made]
        (grad,) = torch.autograd.grad(made, [p], up, allow_unused=True, retain_graph=True)
        found = found if grad is None else found | (grad != 0)
    return found

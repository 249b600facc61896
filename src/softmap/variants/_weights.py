"""Layers whose parameters an edit returns instead of applying them.

An edit must not read a submodule's parameters from outside, since hooks that move parameters to
where they are needed (offloading, sharding) act on calls. So these are called, without arguments,
and return weight and bias.
"""

from __future__ import annotations

from torch import Tensor, nn

from softmap.maps import outliving


class LinearWeights(nn.Linear):
    """``weight, bias = layer()``: the parameters of ``nn.Linear``, initialised like them."""

    def forward(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return _handed_out(self)


class Conv2dWeights(nn.Conv2d):
    """``weight, bias = layer()``: the parameters of ``nn.Conv2d``, initialised like them."""

    def forward(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return _handed_out(self)


def _handed_out(layer: nn.Linear | nn.Conv2d) -> tuple[Tensor, Tensor]:
    assert layer.bias is not None
    made = outliving(layer, {"weight": layer.weight, "bias": layer.bias})
    return made["weight"], made["bias"]

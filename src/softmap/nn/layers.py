"""Norms, MLPs, gains and the reparameterised linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmap.errors import SoftmapError
from softmap.maps import compute_dtype


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, or x / (sqrt(mean(x^2)) + eps) * weight with eps_outside.

    arXiv 1910.07467; the second form is that of the simplified blocks' code. x (..., D).
    """

    def __init__(self, dim: int, eps: float = 1e-5, eps_outside: bool = False) -> None:
        super().__init__()
        self.eps, self.eps_outside = eps, eps_outside
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normed x (..., D), in its dtype."""
        if not self.eps_outside:
            return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)
        wide = x.to(compute_dtype(x))
        rms = wide.pow(2).mean(-1, keepdim=True).sqrt()
        return (wide / (rms + self.eps) * self.weight).to(x.dtype)


def make_norm(kind: str, dim: int, eps: float, eps_outside: bool = False) -> nn.Module:
    """Returns a norm by name: ``rmsnorm``, ``layernorm`` or ``none``."""
    if kind == "none":
        return nn.Identity()
    return nn.LayerNorm(dim, eps=eps) if kind == "layernorm" else RMSNorm(dim, eps, eps_outside)


def narrowed(x: Tensor) -> Tensor:
    """Returns x in the dtype of autocast's products: cast once instead of once for each product."""
    kind = x.device.type
    if kind == "meta":  # which has no autocast
        return x
    if not torch.is_autocast_enabled(kind) or x.dtype == torch.float64:
        return x
    return x.to(torch.get_autocast_dtype(kind))


class MLP(nn.Module):
    """SwiGLU: W_d (silu(W_g x) * W_u x); gelu, relu: W_d f(W_u x). x (..., D)."""

    def __init__(self, dim: int, width: int, kind: str = "swiglu", bias: bool = False) -> None:
        super().__init__()
        self.kind = kind
        if kind == "swiglu":
            self.gate_proj = nn.Linear(dim, width, bias=bias)
        self.up_proj = nn.Linear(dim, width, bias=bias)
        self.down_proj = nn.Linear(width, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the MLP of x, (..., D)."""
        x = narrowed(x)
        up = self.up_proj(x)
        if self.kind == "swiglu":
            return self.down_proj(F.silu(self.gate_proj(x)) * up)
        return self.down_proj(F.gelu(up) if self.kind == "gelu" else F.relu(up))


class Gain(nn.Module):
    """x * value, the value trainable or not. A fixed gain of 1 costs nothing."""

    def __init__(self, value: float, trainable: bool) -> None:
        super().__init__()
        self.value = value
        self.gain = nn.Parameter(torch.tensor([float(value)])) if trainable else None

    @property
    def absent(self) -> bool:
        """Whether the gain is fixed at zero, so that its branch need not exist."""
        return self.gain is None and self.value == 0

    def forward(self, x: Tensor) -> Tensor:
        """Returns x times the gain."""
        if self.gain is not None:
            return x * self.gain
        return x if self.value == 1 else x * self.value


class ReparameterisedLinear(nn.Module):
    """y = a x W_init + b (x dW + bias), dW = 0 at init, a and b trainable (arXiv 2311.01906).

    W_init is the identity, or a random orthogonal matrix, which is saved with the weights.
    """

    def __init__(self, dim: int, init: str = "identity", bias: bool = False) -> None:
        super().__init__()
        self.skip_gain = nn.Parameter(torch.ones(1))
        self.residual_gain = nn.Parameter(torch.ones(1))
        self.residual = nn.Linear(dim, dim, bias=bias)
        nn.init.zeros_(self.residual.weight)
        if bias:
            nn.init.zeros_(self.residual.bias)
        start = None
        if init == "orthogonal":
            start = torch.empty(dim, dim)
            nn.init.orthogonal_(start)
        self.register_buffer("initial", start)

    def forward(self, x: Tensor) -> Tensor:
        """Returns y, (..., out_features)."""
        skip = x if self.initial is None else F.linear(x, self.initial)  # type: ignore[arg-type]
        return self.skip_gain * skip + self.residual_gain * self.residual(x)


def make_projection(kind: str, dim_in: int, dim_out: int, bias: bool, what: str) -> nn.Module:
    """Returns a value or output projection: ``linear``, ``identity``, ``residual`` or
    ``orthogonal``.
    """
    if kind == "linear":
        return nn.Linear(dim_in, dim_out, bias=bias)
    if dim_in != dim_out:
        raise SoftmapError(
            f"{what}={kind} keeps the width: expected {dim_in} channels out, found {dim_out} "
            "(grouped-query attention needs a linear one)"
        )
    if kind == "identity":
        return nn.Identity()
    return ReparameterisedLinear(dim_in, "orthogonal" if kind == "orthogonal" else "identity", bias)

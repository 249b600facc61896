"""Simplified Transformer blocks (He and Hofmann 2023, arXiv 2311.01906).

Shaped attention, SAS, SAS-P, and two rows of the removal study: V-SkipInit, the parallel block.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from softmap.maps import Band, Edit, Rows
from softmap.variants._parts import Parts, Place, variant

PAPER, SOURCE = "arXiv 2311.01906", "https://arxiv.org/abs/2311.01906"


class Shaped(Edit):
    """A' = alpha_h I + beta_h A - gamma_h C, C uniform over what a row sees; all three trainable.

    With W_Q = 0 all scores are equal and A = C: alpha = beta = gamma = 1 starts as the identity.
    The keys of another sequence have no identity map.
    """

    stage = "weights"
    defined_for = "self"
    keeps_zeros = True
    kernel = "shaped"
    folds_output = True

    def __init__(
        self, place: Place, alpha: float = 1.0, beta: float = 1.0, gamma: float | None = 1.0
    ) -> None:
        super().__init__()
        self.maps = place.heads
        self.needs_mean = gamma is not None
        self.alpha = nn.Parameter(torch.full((place.heads,), alpha))
        self.beta = nn.Parameter(torch.full((place.heads,), beta))
        self.gamma = None if gamma is None else nn.Parameter(torch.full((place.heads,), gamma))

    def layer_tensors(self) -> dict[str, Tensor]:
        """Returns alpha, beta and, unless the map is not centred, gamma, each (H,)."""
        gains: dict[str, Tensor] = {"alpha": self.alpha, "beta": self.beta}
        return gains if self.gamma is None else gains | {"gamma": self.gamma}

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns alpha I + beta A - gamma C, (B, H, R, C)."""
        t = {n: x.to(m.dtype)[:, None, None] for n, x in t.items()}
        out = t["beta"] * m + t["alpha"] * band.diagonal.to(m.dtype)
        if "gamma" in t:
            visible = band.visible.to(m.dtype)
            out = out - t["gamma"] * visible / visible.sum(-1, keepdim=True).clamp(min=1)
        return out

    def fold_output(self, o: Tensor, rows: Rows, t: dict[str, Tensor]) -> Tensor:
        """Returns alpha v_i + beta o - gamma times the mean of the visible values."""
        t = {n: x.to(o.dtype)[:, None, None] for n, x in t.items()}
        out = t["alpha"] * rows.value + t["beta"] * o
        if rows.mean is not None and "gamma" in t:
            out = out - t["gamma"] * rows.mean
        return out

    def start_as_identity(self) -> bool:
        """Sets alpha to 0, beta to 1 and gamma to 0."""
        nn.init.zeros_(self.alpha)
        nn.init.ones_(self.beta)
        if self.gamma is not None:
            nn.init.zeros_(self.gamma)
        return True


SKIPLESS: dict[str, Any] = {
    "block": "sequential",
    "attention_skip": 0.0,
    "mlp_gain": 0.1,
    "trainable_gains": True,
    "value": "identity",
    "first_value": "residual",
    "output": "identity",
    "zero_query": True,
    "output_init": "default",
}


@variant("sas", "Simplified block (SAS)", paper=PAPER, source=SOURCE)
def sas(**backbone: Any) -> Parts:
    """Shaped attention without attention skip, value and projection; the MLP keeps its skip.

        A' = alpha_h I + beta_h softmax(S) - gamma_h C,   C[i,j] = 1/(i+1)
        x  <- Shaped(Norm x);   x <- x + b_FF MLP(Norm x),  b_FF = 0.1 at init, trainable

    V and P are the identity (V of the first layer: identity plus a zero-initialised residual);
    W_Q = 0 at init. Any backbone field may be set again: sas(mlp_skip=0), sas(output=linear).
    """
    fields = {**SKIPLESS, "block": "sequential", "mlp_skip": 1.0}
    return Parts(weights=[Shaped], backbone={**fields, **backbone})


@variant("sas-p", "Parallel simplified block (SAS-P)", paper=PAPER, source=SOURCE)
def sas_p(**backbone: Any) -> Parts:
    """SAS with both branches side by side and no skip at all.

    x <- b_FF MLP(Norm x) + b_SA Shaped(Norm x),   b_SA = 1, b_FF = 0.1 at init
    """
    fields = {**SKIPLESS, "block": "parallel", "mlp_skip": 0.0, **backbone}
    return Parts(weights=[Shaped], backbone=fields)


@variant("v-skipinit", "Value-SkipInit", paper=PAPER, source=SOURCE)
def v_skipinit(**backbone: Any) -> Parts:
    """No attention skip; the identity enters through the map instead.

    A' = alpha_h I + beta_h softmax(S),   alpha = 1, beta = 0 at init
    """
    edit = partial(Shaped, alpha=1.0, beta=0.0, gamma=None)
    fields = {**SKIPLESS, "value": "orthogonal", "output": "orthogonal", "zero_query": False}
    return Parts(weights=[edit], backbone={**fields, "first_value": None, **backbone})


@variant(
    "parallel",
    "Parallel block (GPT-J)",
    source="https://github.com/kingoflolz/mesh-transformer-jax",
)
def parallel(**backbone: Any) -> Parts:
    """Attention and MLP side by side on one normed input.

    x <- x + Attention(Norm x) + MLP(Norm x)
    """
    return Parts(backbone={"block": "parallel", **backbone})

"""Dynamically composable multi-head attention, DCMHA (Xiao et al. 2024, arXiv 2405.08553)."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmap.fields import Range
from softmap.maps import Band, Edit
from softmap.variants._parts import Parts, Place, variant

BACKBONES: dict[str, dict[str, Any]] = {
    "dcformer++": {},
    "dcpythia": {
        "block": "parallel",
        "shared_norm": False,
        "norm": "layernorm",
        "mlp": "gelu",
        "bias": True,
        "qk_norm": True,
        "rotary_fraction": 0.25,
    },
}


class Factors(nn.Module):
    """One branch: the weights that token x composes the heads with.

        hid = GELU(x W1), [w1; w2] = hid W2 (2R x H), w1 normalised over heads, g = tanh(x W_g)

    Returns low (B, T, 2, R, H) or None and gate (B, T, H) or None.
    """

    eps = 1e-6  #: of the norm over heads

    def __init__(self, dim: int, heads: int, rank: int, low_rank: bool, gates: bool) -> None:
        super().__init__()
        hidden = 2 * rank * heads
        self.rank = rank
        if low_rank:
            std = 0.01 * math.sqrt(1 / hidden) * 2 / (heads + rank)
            self.w1 = nn.Parameter(torch.randn(dim, hidden) * math.sqrt(2 / (dim + hidden)))
            self.w2 = nn.Parameter(torch.randn(hidden, 2 * rank, heads) * std)
        if gates:
            std = 0.005 * math.sqrt(2 / (dim + heads))
            self.wg = nn.Parameter(torch.randn(dim, heads) * std)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the token's factors: "1" and "2" (B, T, rank, H), "g" (B, T, H)."""
        out: dict[str, Tensor] = {}
        if hasattr(self, "w1"):
            hidden = F.gelu(x @ self.w1)
            low = (hidden @ self.w2.flatten(1)).view(*x.shape[:-1], *self.w2.shape[1:])
            first, second = low.narrow(-2, 0, self.rank), low.narrow(-2, self.rank, self.rank)
            out |= {"1": F.rms_norm(first, first.shape[-1:], eps=self.eps), "2": second}
        if hasattr(self, "wg"):
            out["g"] = torch.tanh(x @ self.wg)
        return out

    def close(self) -> None:
        """w2 = 0 and g = 0 for every token, w1 as it is: it adds zero, whose gradient is not."""
        if hasattr(self, "w1"):
            self.w2[:, self.rank :] = 0
        if hasattr(self, "wg"):
            self.wg.zero_()


class Compose(Edit):
    """a' = a W_b + (a.w1_q) w2_q + a g_q + (a.w1_k) w2_k + a g_k for the heads a of one (i, j)."""

    keeps_zeros = True
    kernel = "compose"

    def __init__(
        self,
        place: Place,
        stage: str,
        rank: int = 2,
        static: bool = False,
        query: bool = True,
        key: bool = True,
        gates: bool = True,
        low_rank: bool = True,
    ) -> None:
        super().__init__()
        self.stage = stage
        self.rank, self.heads, self.maps = rank, place.heads, place.heads
        branch = partial(Factors, place.dim, place.heads, rank, low_rank, gates)
        self.query = branch() if query else None
        self.key = branch() if key else None
        std = 0.1 / math.sqrt(place.heads)
        self.static = nn.Parameter(torch.randn(place.heads, place.heads) * std) if static else None

    def layer_tensors(self) -> dict[str, Tensor]:
        """Returns the static map over heads, (H, H), if there is one."""
        return {} if self.static is None else {"static": self.static}

    def query_tensors(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the query token's factors; their names begin with q."""
        return {} if self.query is None else {f"q{n}": t for n, t in self.query(x).items()}

    def key_tensors(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the key token's factors; their names begin with k."""
        return {} if self.key is None else {f"k{n}": t for n, t in self.key(x).items()}

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns the composed map, (B, H, R, C)."""
        t = {n: x.to(m.dtype) for n, x in t.items()}
        out = m * self._diagonal(t)
        if "static" in t:
            out = out + (t["static"].T @ m.flatten(2)).view_as(m)
        for side in ("q", "k"):
            if f"{side}1" in t:
                out = _add_low_rank(out, m, t[f"{side}1"], t[f"{side}2"], side)
        return out

    @staticmethod
    def _diagonal(t: dict[str, Tensor]) -> Tensor | float:
        """1 + g_q + g_k, (B, H, R|1, C|1)."""
        gain: Tensor | float = 1.0
        if "qg" in t:
            gain = gain + t["qg"].transpose(1, 2)[..., None]
        if "kg" in t:
            gain = gain + t["kg"].transpose(1, 2).contiguous()[:, :, None]
        return gain

    @torch.no_grad()
    def start_as_identity(self) -> bool:
        """Sets what is added to the map to 0; all parameters still get gradients in time."""
        for side in (self.query, self.key):
            if side is not None:
                side.close()
        if self.static is not None:
            nn.init.zeros_(self.static)
        return True


def _add_low_rank(out: Tensor, m: Tensor, w1: Tensor, w2: Tensor, side: str) -> Tensor:
    """out + sum_r (m . w1_r) w2_r. As broadcast sums: rank 2 is far too thin for a matrix product.

    w1, w2 are (B, n, rank, H), n the rows (``side`` q) or the columns (k) of m (B, H, R, C). They
    are laid out as (rank, B, H, n) first: with n innermost the broadcast products vectorise.
    """
    axis = -1 if side == "q" else -2
    w1, w2 = (w.permute(2, 0, 3, 1).contiguous().unsqueeze(axis) for w in (w1, w2))
    for down, up in zip(w1, w2, strict=True):
        out = torch.addcmul(out, (m * down).sum(1, keepdim=True), up)
    return out


@variant(
    "dcmha",
    "Dynamically composable MHA",
    paper="arXiv 2405.08553",
    source="https://arxiv.org/abs/2405.08553",
)
def dcmha(
    *,
    rank: Annotated[int, Range(1, 256)] = 2,
    static: bool = False,
    query: bool = True,
    key: bool = True,
    gates: bool = True,
    low_rank: bool = True,
    pre: bool = True,
    post: bool = True,
    backbone: Literal["dcformer++", "dcpythia"] = "dcformer++",
    pattern: str | None = None,
    window: Annotated[int, Range(1, 2**31)] = 256,
    qk_norm: bool | None = None,
) -> Parts:
    """Heads composed by weights that depend on the query's and the key's token.

        a' = a W_b + (a.w1_q) w2_q + a g_q + (a.w1_k) w2_k + a g_k
        hid = GELU(x W1), [w1; w2] = hid W2, w1 RMS-normalised over heads, g = tanh(x W_g)

    a: all heads at one (i, j), before the softmax (pre) and after it (post). W_b is the identity,
    plus an H x H map with static. Switches: query, key, gates, low_rank, pre, post, rank.

    Args:
        backbone: dcformer++ or dcpythia.
        pattern: LG or LGLL with windows of ``window`` keys.
    """
    options: dict[str, Any] = {"rank": rank, "static": static, "query": query, "key": key}
    options |= {"gates": gates, "low_rank": low_rank}
    fields = dict(BACKBONES[backbone])
    if pattern is not None:
        fields |= {"pattern": pattern, "window": window}
    if qk_norm is not None:
        fields["qk_norm"] = qk_norm
    if fields.get("qk_norm"):
        fields["qk_norm_eps"] = 1e-6
    return Parts(
        scores=[partial(Compose, stage="scores", **options)] if pre else [],
        weights=[partial(Compose, stage="weights", **options)] if post else [],
        backbone=fields,
    )

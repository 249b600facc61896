"""Additive position biases: ALiBi, KERPLE, FIRE, and no position at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmap.fields import Range
from softmap.maps import Band, Edit
from softmap.variants._parts import Parts, Place, variant
from softmap.variants._weights import LinearWeights


class Bias(Edit):
    """S' = S + B, B[h,i,j] a function of the two positions only.

    B is shared by the batch, so its making is not counted per cell; adding it is.
    """

    stage = "scores"
    defined_for = "self"

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.heads = self.maps = place.heads

    def values(self, band: Band, t: dict[str, Tensor]) -> Tensor:
        """(b, H, R, C) the bias; in causal attention what is beyond the diagonal is not used."""
        raise NotImplementedError

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns S + B for the band, (B, H, R, C)."""
        # In the map's dtype: bfloat16 cannot count tokens beyond 256.
        return m + self.values(band, {n: x.to(m.dtype) for n, x in t.items()})


def distance(band: Band, like: Tensor) -> Tensor:
    """(b, 1, R, C) |i - j|, in the dtype of ``like``."""
    return band.distance.abs().to(like.dtype)


def alibi_slopes(heads: int) -> Tensor:
    """2^(-8 (h+1) / n), n the power of two at or below ``heads``; further heads interleave."""
    n = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (h + 1) / n) for h in range(n)]
    slopes += [2 ** (-4 * (h + 1) / n) for h in range(0, 2 * (heads - n), 2)]
    return torch.tensor(slopes)


class Alibi(Bias):
    """B = -slope_h |i - j|, slopes fixed (arXiv 2108.12409).

    The paper is on causal attention; the symmetric form is the authors' for encoders.
    """

    kernel = "alibi"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.register_buffer("slopes", alibi_slopes(place.heads))

    def layer_tensors(self) -> dict[str, Tensor]:
        """Returns the slopes, (H,)."""
        return {"slopes": self.slopes}  # type: ignore[dict-item]

    def values(self, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns -slope_h |i - j|, (b, H, R, C)."""
        return -t["slopes"][:, None, None] * distance(band, t["slopes"])


class Kerple(Bias):
    """B = -p log(1 + a |i - j|), p ~ U(0, 2), a ~ U(0, 1) per head, both kept >= 0.01.

    The logarithmic kernel of arXiv 2205.09921.
    """

    kernel = "kerple"
    floors = {"p": 0.01, "a": 0.01}  # noqa: RUF012

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.p = nn.Parameter((torch.rand(place.heads) * 2).clamp(min=self.floors["p"]))
        self.a = nn.Parameter(torch.rand(place.heads).clamp(min=self.floors["a"]))

    def layer_tensors(self) -> dict[str, Tensor]:
        """Returns p and a, each (H,), at least 0.01."""
        return {"p": self.floored("p"), "a": self.floored("a")}

    def values(self, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns -p_h log(1 + a_h |i - j|), (b, H, R, C)."""
        p, a = t["p"][:, None, None], t["a"][:, None, None]
        return -p * torch.log1p(a * distance(band, p))


class Fire(Bias):
    """B = MLP( log(1 + |c| (i-j)) / log(1 + |c| max(L, i)) ), L = L_0 times a learned multiplier.

    arXiv 2310.04418; MLP 1-32-H with ReLU, c = 0.1 and L_0 = 512 at init. slope, eps: of a
    leaky ReLU and beside the denominator, for weights trained by code that had them.

    Causal alone: row i is the longest distance there, so that the MLP reads numbers up to 1. To
    later keys there are longer ones, and the paper has no form for them.
    """

    defined_for = "causal"

    def __init__(
        self,
        place: Place,
        hidden: int = 32,
        start: float = 512.0,
        slope: float = 0.0,
        eps: float = 0.0,
    ) -> None:
        super().__init__(place)
        self.up, self.down = LinearWeights(1, hidden), LinearWeights(hidden, place.heads)
        # (1,), not (): FSDP2 shards the first axis.
        self.c = nn.Parameter(torch.tensor([0.1]))
        self.multiplier = nn.Parameter(torch.tensor([1.0]))
        self.register_load_state_dict_pre_hook(_with_axis)
        self.start, self.slope, self.eps = start, slope, eps
        plain = slope == 0 and eps == 0 and type(self) is Fire
        self.kernel = "fire" if plain else None

    def layer_tensors(self) -> dict[str, Tensor]:
        """Returns the weights of the MLP, |c| and the length L."""
        (w1, b1), (w2, b2) = self.up(), self.down()
        c, length = self.c.abs(), (self.multiplier * self.start).abs()
        mlp = {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
        return {**mlp, "c": c.squeeze(0), "length": length.squeeze(0)}

    def values(self, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns the MLP of each scaled distance, (b, H, R, C)."""
        gap = distance(band, t["c"])
        reach = torch.maximum(band.rows.to(gap.dtype)[:, None, :, None], t["length"])
        place = torch.log1p(t["c"] * gap) / (torch.log1p(t["c"] * reach) + self.eps)
        hidden = place * t["w1"].view(-1, 1, 1) + t["b1"].view(-1, 1, 1)
        hidden = F.leaky_relu(hidden, self.slope)
        return (t["w2"] @ hidden.flatten(2) + t["b2"][:, None]).unflatten(-1, gap.shape[-2:])


def _with_axis(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Files of before have the shape () where there is (1,) now."""
    for name in ("c", "multiplier"):
        if (old := state.get(prefix + name)) is not None and old.ndim == 0:
            state[prefix + name] = old[None]


Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(0)]
BIASES = {"alibi": Alibi, "kerple": Kerple, "fire": Fire}


@variant(
    "nope", "No positions", paper="arXiv 2305.19466", source="https://arxiv.org/abs/2305.19466"
)
def nope() -> Parts:
    """No position information but the causal mask: Transformer++ without RoPE."""
    return Parts(backbone={"position": "none"})


@variant("alibi", "ALiBi", paper="arXiv 2108.12409", source="https://arxiv.org/abs/2108.12409")
def alibi() -> Parts:
    """A fixed linear bias instead of RoPE.

    S'[h,i,j] = S[h,i,j] - slope_h (i - j)
    """
    return Parts(scores=[Alibi], backbone={"position": "none"})


@variant("kerple", "KERPLE", paper="arXiv 2205.09921", source="https://arxiv.org/abs/2205.09921")
def kerple() -> Parts:
    """A learnt logarithmic bias instead of RoPE, two parameters a head.

    S'[h,i,j] = S[h,i,j] - p_h log(1 + a_h (i - j))
    """
    return Parts(scores=[Kerple], backbone={"position": "none"})


@variant("fire", "FIRE", paper="arXiv 2310.04418", source="https://arxiv.org/abs/2310.04418")
def fire(*, start: Positive = 512.0, slope: NotNegative = 0.0, eps: NotNegative = 0.0) -> Parts:
    """A learnt function of the relative distance instead of RoPE.

    S'[h,i,j] = S[h,i,j] + MLP( log(1 + c (i-j)) / (log(1 + c max(L, i)) + eps) )_h

    Args:
        start: L at the start, before its learnt multiplier.
        slope: of the MLP's leaky ReLU.
    """
    return Parts(scores=[fire_bias(start, slope, eps)], backbone={"position": "none"})


def fire_bias(start: float, slope: float, eps: float) -> Callable[[Place], Fire]:
    """[`Fire`][] with these numbers."""
    return partial(Fire, start=float(start), slope=float(slope), eps=float(eps))

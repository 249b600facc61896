"""Data-adaptive position encoding: DAPE V1 (arXiv 2405.14722) and V2 (arXiv 2410.04798)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmap.errors import SoftmapError, nearest
from softmap.maps import Band, Edit
from softmap.variants._parts import Parts, Place, variant
from softmap.variants.biases import BIASES, Bias

SLOPE = 0.01


class ScoreConv(Edit):
    """S' = S + B + f([S; B]), f = Conv(1,k) - LeakyReLU - Conv(1,k) along the keys.

    k = 1 is V1 (a linear map at each (i, j)). Without a bias f reads the H score channels alone.

    The second convolution reads the hidden map up to k//2 columns beyond the diagonal, where it is
    not zero (bias and spill of the first). It is evaluated there on every row, as if the key axis
    went on with zeros: then a row does not depend on how many keys follow, and prefill equals
    decode. The authors' code cuts it off at the end of the array. To the left a row ends where
    its own keys begin (its document, window or padding): the hidden map is zero there.
    """

    stage = "scores"

    def __init__(self, place: Place, bias: type[Bias] | None, hidden: int, kernel: int) -> None:
        super().__init__()
        self.bias = None if bias is None else bias(place)
        self.pad = kernel // 2
        self.heads = self.maps = place.heads
        self.kernel = self._kernel()
        channels = place.heads * (1 if bias is None else 2)
        self.up = nn.Conv2d(channels, hidden, (1, kernel))
        self.down = nn.Conv2d(hidden, place.heads, (1, kernel))

    def _kernel(self) -> str | None:
        """``score_conv``, with the name of the bias after a plus."""
        if type(self) is not ScoreConv:
            return None
        if self.bias is None:
            return "score_conv"
        return None if self.bias.kernel is None else f"score_conv+{self.bias.kernel}"

    def layer_tensors(self) -> dict[str, Tensor]:
        up, down = self.up, self.down
        assert up.bias is not None and down.bias is not None
        conv = {"w1": up.weight, "b1": up.bias, "w2": down.weight, "b2": down.bias}
        bias = {} if self.bias is None else self.bias.layer_tensors()
        return conv | {f"bias.{n}": t for n, t in bias.items()}

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        t = {n: x.to(m.dtype) for n, x in t.items()}
        seen = band.zero(m)
        first, offset = t["w1"], t["b1"][:, None, None]
        own = t["b2"][:, None, None]  # all that is added to S beside the second convolution
        if self.bias is not None:
            # The bias channels do not depend on the batch: convolve them once and add.
            names = {n: n.removeprefix("bias.") for n in t if n.startswith("bias.")}
            bias = band.zero(self.bias.values(band, {short: t[n] for n, short in names.items()}))
            offset = offset + conv_out(bias, first[:, self.heads :])
            own = own + bias
        hidden = conv_out(seen, first[:, : self.heads]).add_(offset)
        hidden = F.leaky_relu_(hidden, SLOPE)
        if not band.whole:
            hidden = hidden.masked_fill(~(band.visible | band.beyond), 0.0)
        return seen + conv_in(hidden, t["w2"]) + own

    def flops_per_cell(self) -> float:
        return 2.0 * (self.up.weight.numel() + self.down.weight.numel())


# The same convolution (1, k) along the keys, zero-padded to keep its width, as one matrix product a
# sequence: with few channels on one side conv2d is much slower on a CPU, forward and backward.


def conv_out(m: Tensor, w: Tensor) -> Tensor:
    """Few channels in: (B, H, R, C) * (M, H, 1, k) -> (B, M, R, C). Shift, then multiply."""
    flat = w.squeeze(2).permute(0, 2, 1).flatten(1)
    return _times(flat, _Spread.apply(m, w.shape[3]))


def conv_in(m: Tensor, w: Tensor) -> Tensor:
    """Few channels out: (B, M, R, C) * (H, M, 1, k) -> (B, H, R, C). Multiply, then add shifted."""
    flat = w.squeeze(2).flip(-1).permute(2, 0, 1).flatten(0, 1)
    return _Gather.apply(_times(flat, m), w.shape[3])  # type: ignore[no-any-return]


def _times(w: Tensor, m: Tensor) -> Tensor:
    """(M, K) times (B, K, R, C) over the channels. bmm, since matmul would transpose the maps."""
    out = torch.bmm(w.expand(m.shape[0], -1, -1), m.flatten(2))
    return out.unflatten(2, m.shape[2:])


def spread(m: Tensor, taps: int) -> Tensor:
    """(B, H, R, C) to (B, taps * H, R, C): tap n holds m[..., c + n - taps // 2], 0 outside."""
    out = m.new_zeros(m.shape[0], taps, *m.shape[1:])
    for n, (to, source) in enumerate(_shifts(taps, m.shape[3])):
        out[:, n, ..., to] = m[..., source]
    return out.flatten(1, 2)


def gather(m: Tensor, taps: int) -> Tensor:
    """The adjoint of :func:`spread`: every shifted copy moved back, and added up."""
    m = m.unflatten(1, (taps, -1))
    out = m[:, taps // 2].clone()
    for n, (to, source) in enumerate(_shifts(taps, m.shape[4])):
        if n != taps // 2:
            out[..., source] += m[:, n, ..., to]
    return out


def _shifts(taps: int, width: int) -> list[tuple[slice, slice]]:
    """For each tap, the columns written and the columns read; both empty beyond the width."""
    steps = [max(-width, min(width, n - taps // 2)) for n in range(taps)]
    return [
        (slice(max(0, -s), width - max(0, s)), slice(max(0, s), width + min(0, s))) for s in steps
    ]


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, m: Tensor, taps: int) -> Tensor:
        ctx.taps = taps
        return spread(m, taps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Gather.apply(grad, ctx.taps), None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, m: Tensor, taps: int) -> Tensor:
        ctx.taps = taps
        return gather(m, taps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Spread.apply(grad, ctx.taps), None


@variant(
    "dape",
    "DAPE",
    paper="arXiv 2410.04798",
    source="https://arxiv.org/abs/2410.04798",
)
def dape(*, bias: str = "kerple", kernel: int = 3, hidden: int = 32, version: int = 2) -> Parts:
    """The scores as a feature map: a small convolution over the keys that mixes all heads.

        S' = S + B + f([S; B]),   f = Conv(2H, M, (1,k)) - LeakyReLU - Conv(M, H, (1,k))

    bias: kerple, alibi, fire (B added, no RoPE), rope or none (no B; f reads S alone). version 1 is
    the same with k = 1 (arXiv 2405.14722). hidden is M.
    """
    known = [*BIASES, "rope", "none"]
    if bias not in known:
        raise SoftmapError(
            f"dape bias must be one of {', '.join(known)}, found {bias!r}{nearest(bias, known)}"
        )
    if version not in (1, 2):
        raise SoftmapError(f"dape version must be 1 or 2, found {version}")
    kernel = 1 if version == 1 else kernel
    if kernel < 1 or kernel % 2 == 0:
        raise SoftmapError(f"dape kernel must be odd and positive, found {kernel}")
    edit = partial(ScoreConv, bias=BIASES.get(bias), hidden=hidden, kernel=kernel)
    position = "rope" if bias == "rope" else "none"
    return Parts(scores=[edit], backbone={"position": position})

"""Data-adaptive position encoding: DAPE V1 (arXiv 2405.14722) and V2 (arXiv 2410.04798)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from softmap.errors import SoftmapError
from softmap.fields import Range
from softmap.maps import Band, Edit
from softmap.variants._parts import Parts, Place, variant
from softmap.variants._score_conv import SLOPE, conv_in, conv_out
from softmap.variants._weights import Conv2dWeights
from softmap.variants.biases import BIASES, Bias, NotNegative, Positive, fire_bias


class ScoreConv(Edit):
    """S' = S + B + f([S; B]), f = Conv(1,k) - LeakyReLU - Conv(1,k) along the keys.

    k = 1 is V1 (a linear map at each (i, j)). Without a bias f reads the H score channels alone.

    The second convolution reads the hidden map up to k//2 columns beyond the diagonal, where it is
    not zero (bias and spill of the first). It is evaluated there on every row, as if the key axis
    went on with zeros: then a row does not depend on how many keys follow, and prefill equals
    decode. The authors' code cuts it off at the end of the array. To the left a row ends where
    its own keys begin (its document, window or padding): the hidden map is zero there. Without a
    causal mask, so it is at both sides, and f is the plain convolution of a row's own keys.
    """

    stage = "scores"

    def __init__(
        self, place: Place, bias: Callable[[Place], Bias] | None, hidden: int, kernel: int
    ) -> None:
        super().__init__()
        self.bias = None if bias is None else bias(place)
        if self.bias is not None:
            self.defined_for = self.bias.defined_for
        self.pad = kernel // 2
        self.heads = self.maps = place.heads
        self.kernel = self._kernel()
        channels = place.heads * (1 if bias is None else 2)
        self.up = Conv2dWeights(channels, hidden, (1, kernel))
        self.down = Conv2dWeights(hidden, place.heads, (1, kernel))

    def _kernel(self) -> str | None:
        """``score_conv``, with the name of the bias after a plus."""
        if type(self) is not ScoreConv:
            return None
        if self.bias is None:
            return "score_conv"
        return None if self.bias.kernel is None else f"score_conv+{self.bias.kernel}"

    def layer_tensors(self) -> dict[str, Tensor]:
        """Returns the weights of both convolutions, and the bias's tensors as ``bias.NAME``."""
        (w1, b1), (w2, b2) = self.up(), self.down()
        conv = {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
        bias = {} if self.bias is None else self.bias().layer
        return conv | {f"bias.{n}": t for n, t in bias.items()}

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns S + B + f([S; B]); f reads zeros beyond the visible keys."""
        seen, first, offset, second, own = self._given(m, band, t)
        hidden = F.leaky_relu(conv_out(seen, first) + offset, SLOPE)
        if not band.whole:
            hidden = hidden.masked_fill(~(band.visible | band.beyond), 0.0)
        return seen + conv_in(hidden, second) + own

    def _given(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """The scores seen, the first convolution of them and all that is added to it, the second
        convolution and all that is added to S beside it."""
        t = {n: x.to(m.dtype) for n, x in t.items()}
        seen = band.zero(m)
        first, offset = t["w1"], t["b1"][:, None, None]
        own = t["b2"][:, None, None]
        if self.bias is not None:
            # The bias channels do not depend on the batch: convolve them once and add.
            names = {n: n.removeprefix("bias.") for n in t if n.startswith("bias.")}
            bias = band.zero(self.bias.values(band, {short: t[n] for n, short in names.items()}))
            offset = offset + conv_out(bias, first[:, self.heads :])
            own = own + bias
        return seen, first[:, : self.heads], offset, t["w2"], own

    def start_as_identity(self) -> bool:
        """Sets the last convolution to 0; a bias B, if there is one, still changes the scores."""
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)  # type: ignore[arg-type]
        return self.bias is None


@variant(
    "dape",
    "DAPE",
    paper="arXiv 2410.04798",
    source="https://arxiv.org/abs/2410.04798",
)
def dape(
    *,
    bias: Literal["kerple", "alibi", "fire", "rope", "none"] = "kerple",
    kernel: Annotated[int, Range(1, 255)] = 3,
    hidden: Annotated[int, Range(1, 4096)] = 32,
    version: Literal[1, 2] = 2,
    start: Positive = 512.0,
    slope: NotNegative = 0.0,
    eps: NotNegative = 0.0,
) -> Parts:
    """The scores as a feature map: a small convolution over the keys that mixes all heads.

        S' = S + B + f([S; B]),   f = Conv(2H, M, (1,k)) - LeakyReLU - Conv(M, H, (1,k))

    Args:
        bias: kerple, alibi, fire (B added, no RoPE), rope or none (no B; f reads S alone). version
            1 is the same with k = 1 (arXiv 2405.14722). hidden is M. start, slope and eps are those
            of fire.
    """
    kernel = 1 if version == 1 else kernel
    if kernel % 2 == 0:
        raise SoftmapError(f"dape kernel must be odd and positive, found {kernel}")
    made: Callable[[Place], Bias] | None = BIASES.get(bias)
    if bias == "fire":
        made = fire_bias(start, slope, eps)
    elif (start, slope, eps) != (512.0, 0.0, 0.0):
        raise SoftmapError(f"dape start, slope and eps belong to bias fire, found bias {bias!r}")
    edit = partial(ScoreConv, bias=made, hidden=hidden, kernel=kernel)
    position = "rope" if bias == "rope" else "none"
    return Parts(scores=[edit], backbone={"position": position})

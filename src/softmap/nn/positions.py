"""Where tokens are: positions under padding, rotary and sinusoidal encodings."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from softmap.errors import SoftmapError
from softmap.maps import compute_dtype
from softmap.ops.documents import starts_of

Angles = tuple[Tensor, Tensor]  # cos, sin


@dataclass(frozen=True)
class Positions:
    """Positions of all S tokens so far; the last T are being processed.

    cols: (b, S) positions, b = 1 where the batch has no padding. valid: (B, S) True at real
    tokens, or None. A padded token's position is that of the real token before it, -1 at the left.
    starts: (b, S) place of the first token of each token's document, where documents are packed;
    positions then count from there.
    """

    cols: Tensor
    valid: Tensor | None
    starts: Tensor | None = None
    _angles: dict[tuple[int, int, float, torch.dtype], Angles] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(
        cls,
        total: int,
        mask: Tensor | None,
        device: torch.device,
        documents: Tensor | None = None,
    ) -> Positions:
        """From an attention mask (B, S) of ones and zeros, or None where all tokens are real, and
        the document (b, S) of each token, or None where a sequence is one document. Raises
        ``ValueError`` for a mask of another shape, or of numbers to add."""
        if mask is not None:
            _check_mask(mask, total)
        starts = None
        if documents is not None:
            batch = documents.shape[0] if mask is None else mask.shape[0]
            starts = starts_of(documents, batch, total, wait=True)
        # A program that is exported has to take any mask.
        if mask is None or (not torch.compiler.is_exporting() and bool(mask.all())):
            places = torch.arange(total, device=device)[None]
            return cls(places if starts is None else places - starts, None, starts)
        valid = mask.bool()
        count = valid.long().cumsum(1)
        if starts is not None:
            before = (count - valid.long()).gather(1, starts.expand_as(count))
            count = count - before
        return cls(count - 1, valid, starts)

    def last(self, tokens: int) -> Positions:
        """Only the last ``tokens`` of them: what a bounded cache holds."""
        if tokens == self.cols.shape[1]:
            return self
        assert self.starts is None, "a cache holds one document"
        valid = None if self.valid is None else self.valid[:, -tokens:]
        return Positions(self.cols[:, -tokens:], valid)

    def angles(self, tokens: int, width: int, theta: float, dtype: torch.dtype) -> Angles:
        """:func:`angles` of the last ``tokens`` in this dtype, once for all layers."""
        if torch.compiler.is_compiling():  # it finds what is made twice; a length has no hash there
            return self._made(tokens, width, theta, dtype)
        key = (tokens, width, theta, dtype)
        if key not in self._angles:
            self._angles[key] = self._made(*key)
        return self._angles[key]

    def _made(self, tokens: int, width: int, theta: float, dtype: torch.dtype) -> Angles:
        cos, sin = angles(self.last(tokens).cols, width, theta)
        return cos.to(dtype), sin.to(dtype)


def _check_mask(mask: Tensor, total: int) -> None:
    if mask.ndim != 2 or mask.shape[1] != total:
        raise SoftmapError(
            f"the mask must be (batch, {total}) for {total} tokens (cached ones included), "
            f"found {tuple(mask.shape)}"
        )
    if mask.is_floating_point():
        raise SoftmapError(
            f"the mask must be boolean or integers, 1 at real tokens (not numbers to add), "
            f"found {mask.dtype}"
        )


def angles(positions: Tensor, width: int, theta: float) -> Angles:
    """cos and sin of position * theta^(-2m/width), m < width / 2: (b, 1, T, width / 2), float64.

    positions: (b, T).
    """
    exponent = torch.arange(0, width, 2, device=positions.device, dtype=torch.float64) / width
    angle = positions[:, None, :, None].double() * theta**-exponent
    return angle.cos(), angle.sin()


def rotate(x: Tensor, by: Angles, interleaved: bool = False) -> Tensor:
    """Rotary positions (RoFormer, arXiv 2104.09864) on x (B, H, T, d), ``by`` their angles.

    The first channels are turned, as many as there are angles for; pairs are (m, m + width/2), or
    neighbours (2m, 2m+1) when interleaved.
    """
    dtype = compute_dtype(x)
    cos, sin = (t.to(dtype) for t in by)
    width = 2 * cos.shape[-1]
    part, rest = x[..., :width].to(dtype), x[..., width:]
    one, two = (part[..., 0::2], part[..., 1::2]) if interleaved else part.chunk(2, -1)
    turned = (one * cos - two * sin, two * cos + one * sin)
    out = torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)
    out = out.to(x.dtype)
    return out if width == x.shape[-1] else torch.cat([out, rest], -1)


def sinusoidal(positions: Tensor, dim: int) -> Tensor:
    """sin and cos of position / 10000^(2m/D), (b, T, D) (arXiv 1706.03762, section 3.5)."""
    half = (dim + 1) // 2
    exponent = torch.arange(half, device=positions.device, dtype=torch.float64) / half
    angle = positions[..., None].double() * 10000.0**-exponent
    return torch.cat([angle.sin(), angle.cos()], -1)[..., :dim]

"""Positions of tokens under padding and packing; rotary and sinusoidal encodings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from softmap.errors import SoftmapError
from softmap.maps import compute_dtype
from softmap.nn.share import Share
from softmap.nn.tokens import taken
from softmap.ops.documents import INTEGERS as INTEGERS  # hf reads it here, and the next
from softmap.ops.documents import can_look, starts_of
from softmap.ops.documents import recorded as recorded

Angles = tuple[Tensor, Tensor]  # cos, sin


@dataclass(frozen=True)
class Positions:
    """Positions of all S tokens so far, of which the last T are being processed.

    Edits read neighbours by array index (a convolution, a window, earlier rows), so real tokens
    have to be neighbours. Where padding lies among them, a layer puts keys and queries in an
    ``order`` with the padding first, and its cache keeps them so.

    Attributes:
        cols: (b, S) positions, b = 1 where the batch has no padding.
        valid: (B, S), True at real tokens; None if all are. The position of a padded token is that
            of the real token before it, or 0 at the left, since an edit may look it up or take its
            logarithm; where no row needs to know of the padding, counting goes on.
        starts: (b, S) the index of the first token of each token's document, where documents are
            packed; positions then count from there.
        padding: where it lies in each document: ``"none"``, ``"left"`` (before the real tokens),
            ``"right"`` (after them and nothing is cached, so that causal rows never see it) or
            ``"among"``.
        mask: (B, S) the attention mask as it was given; None without one.
        rotary: cos and sin (b, 1, T, width / 2) of the tokens being processed, if the surrounding
            model computes them; None: they are computed here.
        share: the tokens being processed are not the last ones but this rank's share of them.
    """

    cols: Tensor
    valid: Tensor | None
    starts: Tensor | None = None
    padding: str = "none"
    mask: Tensor | None = None
    rotary: Angles | None = None
    share: Share | None = None
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
        cached: int | None = None,
    ) -> Positions:
        """Returns the positions for a mask and documents.

        Args:
            mask: (B, S) of ones and zeros; None if all tokens are real.
            documents: (b, S) the document of each token; None where a sequence is one document.
            cached: how many of the tokens a cache already holds; None without a cache.

        Raises ``ValueError`` for a mask of another shape, or an additive one.
        """
        if mask is not None:
            _check_mask(mask, total)
        starts = None
        if documents is not None:
            batch = documents.shape[0] if mask is None else mask.shape[0]
            starts = starts_of(documents, batch, total, wait=True)
        places = torch.arange(total, device=device)[None]
        unpadded = places if starts is None else places - starts
        if mask is None or _all_real(mask):
            return cls(unpadded, None, starts)
        mask = mask.bool()
        valid = _as_cached(mask, cached or 0)
        padding = _padding(valid, starts, cached is not None)
        cols = unpadded if padding == "right" else _counted(valid, starts)
        return cls(cols, valid, starts, padding, mask)

    @property
    def key_mask(self) -> Tensor | None:
        """The padding mask that attention needs, (B, S); None without one."""
        return None if self.padding == "right" else self.valid

    @property
    def held_order(self) -> Tensor | None:
        """The order (B, S) in which a layer holds the keys of the tokens, by index as given."""
        if self.mask is None or self.padding == "right":
            return None
        return padding_first(self.mask, self.starts)

    def last(self, tokens: int) -> Positions:
        """Returns the positions of the last ``tokens``, as a bounded cache holds them."""
        if tokens == self.cols.shape[1]:
            return self
        assert self.starts is None, "a cache holds one document"
        valid = None if self.valid is None else self.valid[:, -tokens:]
        return Positions(self.cols[:, -tokens:], valid, None, self.padding, self.mask)

    def rows(self, tokens: int) -> Tensor:
        """Returns the positions of the ``tokens`` being processed, (b, T)."""
        return self.last(tokens).cols if self.share is None else self.share.take(self.cols)

    def order(self, tokens: int) -> Tensor:
        """Returns the order (B, n) of the last n tokens: in each document padding first, then the
        rest. Indices count from the first of the n.
        """
        assert self.valid is not None
        starts = None if self.starts is None else self.starts[:, -tokens:]
        return padding_first(self.valid[:, -tokens:], starts)

    def arranged(self, order: Tensor) -> Positions:
        """Returns the same tokens in the ``order`` (B, S)."""
        assert self.valid is not None
        cols, valid = taken(self.cols, order, 1), taken(self.valid, order, 1)
        return Positions(cols, valid, self.starts, "left", self.mask)

    def angles(self, tokens: int, width: int, theta: float, dtype: torch.dtype) -> Angles:
        """Returns [`angles`][] of the last ``tokens`` in this dtype, once for all layers, or
        ``rotary`` if its width fits.
        """
        if self.rotary is not None:
            return self.rotary
        if torch.compiler.is_compiling():  # it finds what is made twice; a length has no hash there
            return self._made(tokens, width, theta, dtype)
        key = (tokens, width, theta, dtype)
        if key not in self._angles:
            self._angles[key] = self._made(*key)
        return self._angles[key]

    def _made(self, tokens: int, width: int, theta: float, dtype: torch.dtype) -> Angles:
        cos, sin = angles(self.rows(tokens), width, theta)
        return cos.to(dtype), sin.to(dtype)


def apart(ids: Tensor, end: int | None) -> dict[str, Tensor]:
    """``documents`` (B, T) for a model that reads ids (B, T): one begins with each token ``end``,
    which ends the one before. Nothing where ``end`` is None.

    So the end is predicted from its own document, and the first token of the next from the end
    alone, as at the start of a text that is to be written: every target is asked.
    """
    return {} if end is None else {"documents": (ids == end).cumsum(1)}


def _as_cached(valid: Tensor, cached: int) -> Tensor:
    """Returns ``valid`` (B, S) in the order in which a cache holds its tokens: padding first."""
    if not cached:
        return valid
    padded = cached - valid[:, :cached].sum(1, keepdim=True)
    held = torch.arange(cached, device=valid.device) >= padded
    return torch.cat([held, valid[:, cached:]], 1)


def padding_first(valid: Tensor, starts: Tensor | None = None) -> Tensor:
    """Returns the order (B, S) that puts each document's padding before its real tokens."""
    return _rank(valid, starts).argsort(dim=1, stable=True)


def _rank(valid: Tensor, starts: Tensor | None) -> Tensor:
    """Returns numbers (B, S) by which to sort each document's padding before its real tokens."""
    return valid.long() if starts is None else valid + 2 * starts


def _all_real(mask: Tensor) -> bool:
    """Whether there is no padding, as far as is known: a compiler cannot look."""
    return can_look(mask, wait=True) and bool(mask.all())


def _padding(valid: Tensor, starts: Tensor | None, cached: bool) -> str:
    """Returns where the padding lies, see [`Positions`][]; under a compiler ``"among"``."""
    if not can_look(valid, wait=True):
        return "among"
    if bool((_rank(valid, starts).diff(dim=1) >= 0).all()):
        return "left"
    right = not cached and bool((_rank(~valid, starts).diff(dim=1) >= 0).all())
    return "right" if right else "among"


def _counted(valid: Tensor, starts: Tensor | None) -> Tensor:
    """Returns the number of real tokens of the document up to each token, less one, (B, S); at
    least 0.
    """
    count = valid.long().cumsum(1)
    if starts is not None:
        starts = starts.expand_as(count)
        count = count - (count - valid.long()).gather(1, starts)
    return (count - 1).clamp(min=0)


def _check_mask(mask: Any, total: int) -> None:
    if not isinstance(mask, Tensor):
        raise SoftmapError(
            f"the mask must be a tensor (batch, {total}), found {type(mask).__name__}"
        )
    if mask.ndim != 2 or mask.shape[1] != total:
        raise SoftmapError(
            f"the mask must be (batch, {total}) for {total} tokens (cached ones included), "
            f"found {tuple(mask.shape)}"
        )
    if mask.dtype not in (torch.bool, *INTEGERS):
        raise SoftmapError(
            f"the mask must be boolean or integers, 1 at real tokens (not numbers to add), "
            f"found {mask.dtype}"
        )
    # Packers number documents in it: as ones alone they would see each other.
    if mask.dtype != torch.bool and can_look(mask, wait=True):
        other = mask[(mask != 0) & (mask != 1)]
        if other.numel():
            raise SoftmapError(
                "the mask must be 1 at real tokens and 0 at padding (packed texts: see "
                f"documents=), found {int(other[0])}"
            )


def angles(positions: Tensor, width: int, theta: float) -> Angles:
    """Returns cos and sin of position * theta^(-2m/width), m < width / 2, (b, 1, T, width / 2),
    float64.

    Args:
        positions: (b, T).
        width: the number of channels that are rotated.
        theta: the base.
    """
    exponent = torch.arange(0, width, 2, device=positions.device, dtype=torch.float64) / width
    angle = positions[:, None, :, None].double() * theta**-exponent
    return angle.cos(), angle.sin()


def rotate(x: Tensor, by: Angles, interleaved: bool = False) -> Tensor:
    """Returns x (B, H, T, d) with rotary positions (RoFormer, arXiv 2104.09864) of the angles
    ``by``.

    The first channels are rotated, as many as there are angles for. Pairs are (m, m + width/2), or
    neighbours (2m, 2m+1) if interleaved.
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
    """Returns sin and cos of position / 10000^(2m/D), (b, T, D) (arXiv 1706.03762, section 3.5)."""
    half = (dim + 1) // 2
    exponent = torch.arange(half, device=positions.device, dtype=torch.float64) / half
    angle = positions[..., None].double() * 10000.0**-exponent
    return torch.cat([angle.sin(), angle.cos()], -1)[..., :dim]

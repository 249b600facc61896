"""Context parallelism: each of C ranks computes some rows of every sequence, and reads all keys.

Rows are divided in bands. A causal row costs what it sees, so each rank gets one early and one late
band: of 2C bands of nearly equal length, rank r has the bands r and 2C - 1 - r. What belongs to the
keys (keys, values, edits' tensors of keys) is gathered from all ranks; its gradient is summed and
returned to the rank whose tokens they are. Edits mix heads, so heads cannot be split; rows always
can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from softmap.errors import SoftmapError
from softmap.maps import Edit, compute_dtype
from softmap.nn.tokens import Tokens

# By their new names where torch (2.13) has them.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@dataclass(frozen=True)
class Share:
    """The share of ``rank``, one of the ``group``, in sequences of T = ``tokens``."""

    group: Any
    rank: int
    ranks: int
    tokens: int
    _places: dict[torch.device, Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.tokens < 2 * self.ranks:
            raise SoftmapError(
                f"sequences of {self.tokens} tokens cannot be shared by {self.ranks} ranks: "
                f"expected at least {2 * self.ranks} tokens, two bands for each"
            )

    @classmethod
    def of(cls, group: Any, tokens: int) -> Share:
        """Returns this process's share in ``group``."""
        return cls(group, dist.get_rank(group), dist.get_world_size(group), tokens)

    def bands_of(self, rank: int) -> list[range]:
        """Returns the rows of a rank: an early band and a late one."""
        cuts = [n * self.tokens // (2 * self.ranks) for n in range(2 * self.ranks + 1)]
        bands = (rank, 2 * self.ranks - 1 - rank)
        return [range(cuts[band], cuts[band + 1]) for band in bands]

    @property
    def bands(self) -> list[range]:
        """This rank's bands."""
        return self.bands_of(self.rank)

    @cached_property
    def length(self) -> int:
        """The largest number of rows that a rank has; all ranks send as many."""
        return max(sum(map(len, self.bands_of(rank))) for rank in range(self.ranks))

    def places(self, device: torch.device) -> Tensor:
        """The index (T,) of each token in what all ranks send, concatenated."""
        if device not in self._places:
            where = torch.empty(self.tokens, dtype=torch.int64)
            for rank in range(self.ranks):
                rows = torch.cat([torch.arange(b.start, b.stop) for b in self.bands_of(rank)])
                where[rows] = rank * self.length + torch.arange(len(rows))
            self._places[device] = where.to(device)
        return self._places[device]

    def take(self, t: Tensor, axis: int = 1) -> Tensor:
        """Returns this rank's rows of ``t``, which has all T on ``axis``."""
        return torch.cat([t.narrow(axis, band.start, len(band)) for band in self.bands], axis)

    def gather(self, own: Tensor, axis: int = 1) -> Tensor:
        """Returns all T tokens, of which each rank gives its rows; differentiable."""
        if self.ranks == 1:
            return own
        whole: Tensor = _Gather.apply(own.movedim(axis, 0), self)
        return whole.movedim(0, axis)

    def check(self, tokens: int, mask: Tensor | None, alone: bool) -> None:
        """Raise ``SoftmapError`` for what cannot be shared.

        Args:
            alone: whether there is neither a cache nor a record.
        """
        if tokens != self.tokens:
            raise SoftmapError(f"a share of {self.tokens} tokens, found sequences of {tokens}")
        if mask is not None:
            raise SoftmapError("shared sequences have no padding: expected attention_mask=None")
        if not alone:
            raise SoftmapError("shared sequences have no cache and no recorded maps or states")


class _Gather(torch.autograd.Function):
    """Gathers tokens (n, ...) of each rank to (T, ...) on all; backward sums the ranks'
    gradients.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, share: Share) -> Tensor:
        ctx.share, ctx.rows = share, own.shape[0]
        sent = own.new_zeros(share.length, *own.shape[1:])
        sent[: own.shape[0]] = own
        every = own.new_empty(share.ranks * share.length, *own.shape[1:])
        _all_gather(every, sent, group=share.group)
        return every.index_select(0, share.places(own.device))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        share, wide = ctx.share, compute_dtype(grad)
        every = grad.new_zeros(share.ranks * share.length, *grad.shape[1:], dtype=wide)
        every.index_copy_(0, share.places(grad.device), grad.to(wide))
        own = every.new_empty(share.length, *grad.shape[1:])
        _reduce_scatter(own, every, group=share.group)
        return own[: ctx.rows].to(grad.dtype), None


def shared_attention(
    share: Share,
    own: Tokens,
    edits: Sequence[Edit],
    attend: Callable[..., Tensor],
) -> Tensor:
    """Returns the attention (B, H', n, d') of this rank's n rows, from its own tokens alone.

    Args:
        attend: ``attend(q, k, v, tensors, keys)`` returns the attention of a band's queries to the
            first ``keys`` keys, the last of which are the queries' own.
    """
    k, v = share.gather(own.k, 2), share.gather(own.v, 2)
    tensors = [t._replace(key={n: share.gather(x) for n, x in t.key.items()}) for t in own.tensors]
    halo = sum(edit.halo for edit in edits)  # rows above a band are other ranks'
    q = share.gather(own.q, 2) if halo else own.q
    if halo:
        tensors = [
            t._replace(query={n: share.gather(x) for n, x in t.query.items()}) for t in tensors
        ]
    parts, done = [], 0
    for band in share.bands:
        lead, keys = min(halo, band.start), band.stop
        first, rows = band.start - lead if halo else done, len(band) + lead
        cut = [
            t._replace(
                query={n: x.narrow(1, first, rows) for n, x in t.query.items()},
                key={n: x[:, :keys] for n, x in t.key.items()},
            )
            for t in tensors
        ]
        o = attend(q.narrow(2, first, rows), k[:, :, :keys], v[:, :, :keys], cut, keys)
        parts.append(o[:, :, lead:])
        done += len(band)
    return torch.cat(parts, 2)

"""A foreign state dict, read key by key against a table of rules; whatever does not fit is said.

A :class:`Rule` is one line of the table: their name, its shape in named sizes, our names, and how
the one becomes the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from softmap.errors import SoftmapError, nearest


class Rule(NamedTuple):
    """Their weight ``theirs`` of shape ``shape`` ("heads 4 dim") becomes our weights ``ours``."""

    theirs: str
    shape: str
    ours: tuple[str, ...]
    how: Callable[[Tensor], Sequence[Tensor]] = lambda t: (t,)


def transposed(t: Tensor) -> tuple[Tensor]:
    """For weights stored (in, out); ``nn.Linear`` stores (out, in)."""
    return (t.T,)


def flat(t: Tensor) -> tuple[Tensor]:
    """For per-head numbers stored with axes of length 1 around them."""
    return (t.flatten(),)


class Source:
    """The weights of ``what``; each must be taken or skipped before :meth:`finish`."""

    def __init__(self, what: str, state: Mapping[str, Tensor]) -> None:
        if not isinstance(state, Mapping):
            raise SoftmapError(
                f"{what}: state must map names to tensors, found {type(state).__name__}"
            )
        self.what, self.state, self.unread = what, state, set(state)

    def __contains__(self, key: str) -> bool:
        return key in self.state

    def take(self, key: str, *shape: int) -> Tensor:
        """The tensor ``key``; missing, not floating, or of another shape is a ``ValueError``."""
        if key not in self.state:
            close = nearest(key, sorted(self.unread))
            raise SoftmapError(f"{self.what}: weight {key} {shape} expected, found none{close}")
        found = self.state[key]
        if not isinstance(found, Tensor) or not found.is_floating_point():
            kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
            raise SoftmapError(f"{self.what}: {key} must be a floating-point tensor, found {kind}")
        if tuple(found.shape) != shape:
            raise SoftmapError(
                f"{self.what}: {key} must have shape {shape}, found {tuple(found.shape)}"
            )
        self.unread.discard(key)
        return found.detach()

    def apply(
        self, rules: Iterable[Rule], sizes: Mapping[str, int], theirs: str = "", ours: str = ""
    ) -> dict[str, Tensor]:
        """Our names and tensors by the table ``rules``; the prefixes go before each name."""
        made: dict[str, Tensor] = {}
        for rule in rules:
            shape = [sizes[s] if s in sizes else int(s) for s in rule.shape.split()]
            parts = rule.how(self.take(theirs + rule.theirs, *shape))
            made |= {ours + n: t for n, t in zip(rule.ours, parts, strict=True)}
        return made

    def skip(self, pattern: str) -> None:
        """Names (a regular expression) that carry nothing of their own."""
        self.unread = {key for key in self.unread if not re.fullmatch(pattern, key)}

    def finish(self) -> None:
        """Raises ``ValueError`` for a weight that nobody asked for."""
        if self.unread:
            first, more = min(self.unread), len(self.unread) - 1
            others = f" and {more} more" if more else ""
            raise SoftmapError(
                f"{self.what}: found {first}{others}, which a model of this config does not have"
            )


def fill(module: nn.Module, weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Give ``module`` (on the meta device) these weights, as copies of one dtype."""
    owned = {n: t.to(dtype, copy=True).contiguous() for n, t in weights.items()}
    module.load_state_dict(owned, strict=True, assign=True)
    module.eval()

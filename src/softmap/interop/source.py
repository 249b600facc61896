"""Reads a foreign state dict key by key against a table of rules, and refuses what does not
fit.

A [`Rule`][] is a line of the table: their name, its shape in named sizes, our names, and how one
becomes the others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, NoReturn

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
    """Returns weights stored (in, out) as ``nn.Linear`` stores them, (out, in)."""
    return (t.T,)


def flat(t: Tensor) -> tuple[Tensor]:
    """Returns per-head numbers without the axes of length 1 around them."""
    return (t.flatten(),)


DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class WeightReader:
    """The weights of ``what``. Each is read, compared with what it is a copy of, or refused."""

    def __init__(self, what: str, state: Mapping[str, Tensor]) -> None:
        if not isinstance(state, Mapping):
            raise SoftmapError(
                f"{what}: state must map names to tensors, found {type(state).__name__}"
            )
        for key in state:
            if not isinstance(key, str) or not key.isprintable():
                raise SoftmapError(f"{what}: the names of state must be strings, found {key!r}")
        self.what, self.state, self.unread = what, state, set(state)
        self.dtypes: set[torch.dtype] = set()

    def __contains__(self, key: str) -> bool:
        return key in self.state

    def length(self, key: str) -> int | None:
        """Returns the length of the one-dimensional tensor ``key``; None where there is no such
        tensor.
        """
        found = self.state.get(key)
        return len(found) if isinstance(found, Tensor) and found.ndim == 1 else None

    def take(self, key: str, *shape: int | None, whole: bool = False) -> Tensor:
        """Returns the tensor ``key``, which must be finite and of this shape; None stands for
        any length.

        Args:
            whole: accept integers.

        Raises ``ValueError`` in one line for what does not fit.
        """
        if key not in self.state:
            close = nearest(key, sorted(self.unread))
            raise SoftmapError(f"{self.what}: weight {key} {shape} expected, found none{close}")
        found = self._checked(key, self.state[key], whole)
        same = len(found.shape) == len(shape)
        if not same or any(n not in (None, m) for n, m in zip(shape, found.shape, strict=True)):
            wanted = str(shape).replace("None", "any")
            raise SoftmapError(
                f"{self.what}: {key} must have shape {wanted}, found {tuple(found.shape)}"
            )
        if not found.isfinite().all():
            raise SoftmapError(f"{self.what}: {key} must be finite, found NaN or infinity in it")
        self.unread.discard(key)
        if found.is_floating_point():
            self.dtypes.add(found.dtype)
        return found

    @property
    def dtype(self) -> torch.dtype:
        """Returns the narrowest dtype that holds every weight taken so far without rounding."""
        return functools.reduce(torch.promote_types, self.dtypes)

    def _checked(self, key: str, found: object, whole: bool) -> Tensor:
        kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
        if not isinstance(found, Tensor) or kind not in (*DTYPES, *([torch.int64] * whole)):
            raise SoftmapError(
                f"{self.what}: {key} must be a floating-point tensor of 16, 32 or 64 bits, "
                f"found {kind}"
            )
        if found.is_meta or found.layout != torch.strided:
            where = "on the meta device" if found.is_meta else f"of layout {found.layout}"
            raise SoftmapError(f"{self.what}: {key} must be a dense tensor, found one {where}")
        return found.detach().cpu()

    def apply(
        self, rules: Iterable[Rule], sizes: Mapping[str, int], theirs: str = "", ours: str = ""
    ) -> dict[str, Tensor]:
        """Returns our names and tensors by the table ``rules``; the prefixes go before each
        name.
        """
        made: dict[str, Tensor] = {}
        for rule in rules:
            shape = [sizes[s] if s in sizes else int(s) for s in rule.shape.split()]
            parts = rule.how(self.take(theirs + rule.theirs, *shape))
            made |= {ours + n: t for n, t in zip(rule.ours, parts, strict=True)}
        return made

    def either(
        self,
        tables: Sequence[Sequence[Rule]],
        sizes: Mapping[str, int],
        theirs: str = "",
        ours: str = "",
    ) -> dict[str, Tensor]:
        """Apply whichever table's names exist. If both exist they must agree exactly."""
        there = [rules for rules in tables if any(theirs + r.theirs in self for r in rules)]
        first, *others = there or tables[:1]
        made = self.apply(first, sizes, theirs, ours)
        for rules in others:
            for name, tensor in self.apply(rules, sizes, theirs, ours).items():
                if not (made[name] == tensor).all():
                    one, two = (", ".join(theirs + r.theirs for r in t) for t in (first, rules))
                    self.disagree(one, two)
        return made

    def copy(self, key: str, of: str, expected: Tensor) -> None:
        """Accept ``key`` if it is what follows from the weights ``of``, up to rounding."""
        if key in self:
            found = self.take(key, *expected.shape)
            rounding = torch.finfo(found.dtype).eps * expected.abs()
            if not ((found - expected).abs() <= rounding).all():
                self.disagree(of, key)

    def disagree(self, one: str, two: str) -> NoReturn:
        """Raise ``ValueError`` for two weights that should agree; only the user knows which is
        meant.
        """
        raise SoftmapError(
            f"{self.what}: {one} and {two} disagree, though their code makes one from the other: "
            "expected equal numbers; remove the one that is not meant"
        )

    def finish(self) -> None:
        """Raise ``ValueError`` for a weight that was not read."""
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

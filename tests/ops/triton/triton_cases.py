"""A call at a size that the interpreter can bear, and its results in float64 beside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from softmap.nn.positions import Positions
from softmap.ops import make_call, reference
from softmap.ops.call import Call
from softmap.ops.yardstick import poisoned
from softmap.testing.subject import CheckSubject


@dataclass(frozen=True)
class Case:
    """variant and sizes; left: padding of the first sequence; queries: the last ones alone."""

    variant: str
    heads: int = 4
    kv_heads: int | None = None
    head_dim: int = 8
    tokens: int = 19
    batch: int = 2
    window: int | None = None
    left: int = 0
    documents: bool = False
    queries: int | None = None

    def call(self, dtype: torch.dtype, device: str, seed: int = 0) -> Call:
        """The call of the variant's layer, every parameter off its start."""
        s = CheckSubject(self.variant, self.heads, self.kv_heads, self.head_dim, seed)
        with torch.no_grad():
            layer, x = s.layer(dtype), s.input(self.batch, self.tokens, dtype)
            q, k, v = layer.project(x, Positions.of(self.tokens, None, x.device))
            tensors: Any = [e(x) for e in layer.edits]  # type: ignore[arg-type]
        first = 0 if self.queries is None else self.tokens - self.queries
        tensors = [t._replace(query={n: a[:, first:] for n, a in t.query.items()}) for t in tensors]
        call = make_call(
            q[:, :, first:], k, v, list(layer.edits), tensors=tensors,  # type: ignore[arg-type]
            window=self.window, key_mask=self._mask(), documents=self._documents(),
        )  # fmt: skip
        return moved(call, device)

    def _mask(self) -> Tensor | None:
        if not self.left:
            return None
        mask = torch.ones(self.batch, self.tokens, dtype=torch.bool)
        mask[0, : self.left] = False
        return mask

    def _documents(self) -> Tensor | None:
        if not self.documents:
            return None
        ends = torch.tensor([[self.tokens // 3], [self.tokens // 2]])[: self.batch]
        return (torch.arange(self.tokens)[None] >= ends).long()

    def __str__(self) -> str:
        shown = {
            n: v for n, v in self.__dict__.items() if v != Case.__dataclass_fields__[n].default
        }
        return ",".join(str(v) if n == "variant" else f"{n}={v}" for n, v in shown.items())


def moved(call: Call, device: str) -> Call:
    """The call on another device."""
    from dataclasses import replace

    call = call.unflatten([t.to(device) for t in call.flatten()[1]])
    fields = {n: getattr(call, n) for n in ("rows", "cols", "valid", "starts")}
    return replace(call, **{n: None if t is None else t.to(device) for n, t in fields.items()})


def results(run: Any, call: Call) -> dict[str, Tensor]:
    """The output and the gradient of every tensor of the call; fresh memory is NaN.

    Rows of padding are undefined: they are set to zero and send no gradient.
    """
    kinds, flat = call.flatten()
    leaves = [t.detach().clone().requires_grad_() for t in flat]
    with poisoned():
        out = run(call.unflatten(leaves))
        if call.valid is not None:
            out = out.masked_fill(~call.valid[:, None, call.keys - call.queries :, None], 0.0)
        upstream = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).cos().view_as(out)
        upstream = upstream.to(out.device, out.dtype)
        grads = torch.autograd.grad(out, leaves, upstream, allow_unused=True)
    named = {f"{n} {kind}": g for n, (kind, g) in enumerate(zip(kinds, grads, strict=True))}
    return {"output": out.detach()} | {n: g for n, g in named.items() if g is not None}


def truth(call: Call) -> dict[str, Tensor]:
    return results(reference.run, call.unflatten([t.double() for t in call.flatten()[1]]))


def off(got: Tensor, want: Tensor) -> float:
    """Root mean square of the error over that of the truth, or of 1 where the truth vanishes."""
    assert got.isfinite().all(), "not finite"
    size = float(want.norm())
    return float((got.double() - want).norm()) / (size if size > 1e-9 else 1.0)


def sampled(cases: list[Case]) -> list[Any]:
    """Every third case with the fast tests, the others with the slow ones: they take seconds."""
    slow = pytest.mark.slow
    return [pytest.param(c, marks=[slow] * (n % 3 > 0)) for n, c in enumerate(cases)]

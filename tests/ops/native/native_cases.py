"""Calls of the native backend, and their outputs and gradients beside those of the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softmap.maps import Edit, heads_after
from softmap.ops import make_call, native, reference
from softmap.ops.call import Call
from softmap.ops.yardstick import poisoned
from softmap.testing.compare import assert_same
from softmap.testing.layouts import numbered
from softmap.testing.subject import perturb, seeded
from softmap.variants import build, load

DIM = 12  # of x, which the edits' tensors of tokens are made from


@dataclass(frozen=True)
class Case:
    """variant: its scores and weights edits. heads: maps at the softmax; keys, values: heads of
    them, by default as many as maps, and as outputs. left, right: padding of the first sequence;
    hidden: all of the last sequence is padding. packed: lengths of the first one's documents; the
    second has them in reverse. queries: the last ones alone."""

    variant: str
    heads: int = 4
    keys: int | None = None
    values: int | None = None
    width: int = 8
    value_width: int = 8
    tokens: int = 37
    batch: int = 2
    window: int | None = None
    left: int = 0
    right: int = 0
    hidden: bool = False
    packed: tuple[int, ...] = ()
    queries: int | None = None

    def call(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> Call:
        """Every parameter off its start, all inputs from N(0, 1)."""
        with seeded(seed), torch.no_grad():
            edits, S = self.edits(dtype), self.tokens
            T, values = self.queries or S, self.values or heads_after(edits, self.heads)
            keys = self.keys or self.heads
            q = torch.randn(self.batch, self.heads, T, self.width, dtype=torch.float64)
            k = torch.randn(self.batch, keys, S, self.width, dtype=torch.float64)
            v = torch.randn(self.batch, values, S, self.value_width, dtype=torch.float64)
            x = torch.randn(self.batch, S, DIM, dtype=torch.float64).to(dtype)
            tensors = [e(x) for e in edits]
        tensors = [
            t._replace(query={n: a[:, S - T :] for n, a in t.query.items()}) for t in tensors
        ]
        return make_call(
            q.to(dtype), k.to(dtype), v.to(dtype), edits, tensors=tensors, window=self.window,
            key_mask=self.mask(), documents=self.documents(),
        )  # fmt: skip

    def edits(self, dtype: torch.dtype) -> list[Edit]:
        made = build(load(self.variant).parts, self.heads, DIM, self.width, 8 * self.heads, 1, 3)
        return [perturb(e).to(dtype) for e in made if e.stage != "output"]

    def mask(self) -> Tensor | None:
        if not (self.left or self.right or self.hidden):
            return None
        mask = torch.ones(self.batch, self.tokens, dtype=torch.bool)
        mask[0, : self.left] = False
        mask[0, self.tokens - self.right :] = False
        mask[-1] = not self.hidden
        return mask

    def documents(self) -> Tensor | None:
        if not self.packed:
            return None
        other = [numbered(self.packed[::-1])] * (self.batch - 1)
        return torch.stack([numbered(self.packed), *other])

    def __str__(self) -> str:
        fields = Case.__dataclass_fields__
        shown = {n: v for n, v in vars(self).items() if v != fields[n].default}
        return ",".join(str(v) if n == "variant" else f"{n}={v}" for n, v in shown.items())


Results = dict[str, Tensor]


def results(run: Callable[[Call], Tensor], call: Call) -> Results:
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
        grads = torch.autograd.grad(out, leaves, upstream.to(out.dtype), allow_unused=True)
    named = zip(kinds, leaves, grads, strict=True)
    return {"output": out.detach()} | {
        f"gradient of input {n} ({kind})": torch.zeros_like(leaf) if g is None else g
        for n, (kind, leaf, g) in enumerate(named)
    }


def spoil(call: Call) -> None:
    """The same call of NaN: its threads' memory, which the next call takes over, is full of it."""
    results(native.run, call.unflatten([torch.full_like(t, torch.nan) for t in call.flatten()[1]]))


def same_as_reference(case: Case, **options: Any) -> None:
    """In float64 the output and every gradient, after a call that left NaN in all memory."""
    call = case.call(**options)
    why = native.refuses(call)
    assert why is None, why
    want = results(reference.run, call)
    spoil(call)
    got = results(native.run, call)
    for name, value in want.items():
        assert_same(got[name], value, f"{name} of {case}")

"""The shapes at which a layer is evaluated, and one evaluation with all of its gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softmap.nn import Attention
from softmap.nn.positions import Positions
from softmap.ops import attention
from softmap.testing.subject import CheckSubject


@dataclass(frozen=True)
class SequenceLayout:
    """The layout of an input of two sequences.

    Attributes:
        tokens: T.
        window: the layer's window, or None.
        left, right: padding of the first sequence.
        queries: how many of the last tokens are queries (fewer than T: as when decoding with a
            cache).
        packed: lengths of the documents in the first sequence; the second has them in reverse.
    """

    tokens: int
    window: int | None = None
    left: int = 0
    right: int = 0
    queries: int | None = None
    packed: tuple[int, ...] = ()

    def documents(self) -> Tensor | None:
        """Returns the document of each token, (2, T), or None where a sequence is one document."""
        if not self.packed:
            return None
        return torch.stack([numbered(self.packed), numbered(self.packed[::-1])])

    def mask(self) -> Tensor | None:
        """Returns the padding mask (2, T), True at real tokens, or None where all are real."""
        if not self.left and not self.right:
            return None
        mask = torch.ones(2, self.tokens, dtype=torch.bool)
        mask[0, : self.left] = False
        mask[0, self.tokens - self.right :] = False
        return mask

    def __str__(self) -> str:
        fields: dict[str, Any] = {"T": self.tokens, "window": self.window}
        fields |= {"queries": self.queries}
        fields |= {"left padding": self.left or None, "right padding": self.right or None}
        fields |= {"documents of": self.packed or None}
        return ", ".join(f"{n} {v}" for n, v in fields.items() if v is not None)


def numbered(lengths: Iterable[int]) -> Tensor:
    """Returns documents of these lengths, (T,), one after the other; later ones have lower
    numbers.
    """
    return torch.cat([torch.full((n,), -place) for place, n in enumerate(lengths)])


LAYOUTS = (
    SequenceLayout(1),
    SequenceLayout(11),
    SequenceLayout(11, window=1),
    SequenceLayout(11, window=4),
    SequenceLayout(11, left=3),
    SequenceLayout(11, right=3),
    SequenceLayout(12, window=4, left=5),
    SequenceLayout(11, queries=6),
    SequenceLayout(11, window=3, queries=1),
    SequenceLayout(11, packed=(1, 4, 6)),
    SequenceLayout(11, window=3, left=2, packed=(5, 6)),
    SequenceLayout(11, queries=5, packed=(2, 5, 4)),
)


def layouts(layer: Attention) -> list[SequenceLayout]:
    """Returns the layouts that the layer takes: an edit that reads earlier rows takes one
    document.
    """
    halo = any(e.halo for e in layer.edits)
    return [x for x in LAYOUTS if not (halo and x.packed)]


def evaluate(subject: CheckSubject, layer: Attention, layout: SequenceLayout) -> dict[str, Tensor]:
    """Returns the output on real tokens, and the gradient of every input and parameter.

    Rows of padding tokens are undefined, so they are set to zero and get no gradient.
    """
    x = subject.input(2, layout.tokens).requires_grad_()
    out = forward(layer, x, layout)
    queries, mask = out.shape[1], layout.mask()
    if mask is not None:
        out = out.masked_fill(~mask[:, layout.tokens - queries :, None], 0.0)
    upstream = subject.with_seed(subject.seed + 1).input(2, layout.tokens)[:, :queries]
    return with_gradients(out, {"x": x, **dict(layer.named_parameters())}, upstream)


def with_gradients(
    out: Tensor, named: Mapping[str, Tensor], upstream: Tensor | None = None
) -> dict[str, Tensor]:
    """Returns the output and its gradient by each of the ``named`` tensors, zeros where it does not
    depend on it.
    """
    if upstream is None:
        upstream = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).cos().view_as(out)
    grads = torch.autograd.grad(out, list(named.values()), upstream, allow_unused=True)
    return {"output": out.detach()} | {
        f"gradient of {name}": torch.zeros_like(leaf) if grad is None else grad
        for (name, leaf), grad in zip(named.items(), grads, strict=True)
    }


def forward(layer: Attention, x: Tensor, layout: SequenceLayout) -> Tensor:
    """Returns the layer on x (B, T, D), or on its last ``queries`` tokens alone: (B, queries,
    D).
    """
    layer.window = layout.window
    if layout.queries is None:
        return layer(x, key_mask=layout.mask(), documents=layout.documents())
    first, documents = layout.tokens - layout.queries, layout.documents()
    q, k, v = layer.project(x, Positions.of(layout.tokens, None, x.device, documents))
    q = q[:, :, first:]
    tensors = [e(x, q, k) for e in layer.edits]
    o = attention(
        q, k, v, list(layer.edits), tensors=tensors,  # type: ignore[arg-type]
        window=layout.window, documents=documents, impl=layer.impl,
    )  # fmt: skip
    return layer.o_proj(o.transpose(1, 2).flatten(2))

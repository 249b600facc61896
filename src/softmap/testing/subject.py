"""What is checked: a variant at sizes so small that everything about it can be computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from softmap.maps import Edit, Tensors
from softmap.nn import Attention, Decoder, ModelConfig
from softmap.nn.positions import Positions
from softmap.ops import chunked, explain, folded, make_call
from softmap.ops.call import Call
from softmap.variants import load

VOCABULARY = 23


@dataclass(frozen=True)
class CheckSubject:
    """A variant (a name, a composed string, a list, ``file.py:name``) and the sizes of the
    checks.

    Attributes:
        heads, kv_heads, head_dim: as for [`softmap.nn.Attention`][]; the model width is heads *
            head_dim.
        seed: the seed of parameters and inputs; every check is a pure function of it.
        context: the number of tokens of the longest input.
    """

    variant: Any
    heads: int = 4
    kv_heads: int | None = None
    head_dim: int = 8
    seed: int = 0
    context: int = 40

    @property
    def dim(self) -> int:
        """The model width, heads * head_dim."""
        return self.heads * self.head_dim

    def layer(self, dtype: torch.dtype = torch.float64, **options: Any) -> Attention:
        """Returns an attention layer with every parameter moved away from its initial value."""
        with seeded(self.seed):
            layer = Attention(
                self.dim, self.heads, self.variant, kv_heads=self.kv_heads,
                head_dim=self.head_dim, depth=2, **options,
            )  # fmt: skip
            return perturb(layer).to(dtype)

    def config(self, window: int | None = None, impl: str = "auto") -> ModelConfig:
        """Returns a configuration of two layers; with ``window`` the first of them is local."""
        local = {} if window is None else {"pattern": "LG", "window": window}
        return ModelConfig(
            variant=self.variant, vocab_size=VOCABULARY, hidden_size=self.dim,
            num_hidden_layers=2, num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads, head_dim=self.head_dim, intermediate_size=16,
            max_position_embeddings=max(64, self.context), impl=impl, backbone=local,
        )  # fmt: skip

    def decoder(
        self, dtype: torch.dtype = torch.float64, window: int | None = None, impl: str = "auto"
    ) -> Decoder:
        """Returns a decoder of [`config`][], perturbed like [`layer`][]."""
        with seeded(self.seed):
            return perturb(Decoder(self.config(window, impl))).to(dtype).eval()

    def input(self, batch: int, tokens: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Returns x (B, T, D), drawn from N(0, 1)."""
        generator = torch.Generator().manual_seed(self.seed)
        x = torch.randn(batch, tokens, self.dim, dtype=torch.float64, generator=generator)
        return x.to(dtype)

    def ids(self, batch: int, tokens: int) -> Tensor:
        """Returns token ids (B, T)."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randint(0, VOCABULARY, (batch, tokens), generator=generator)

    @cached_property
    def backends(self) -> list[str]:
        """Returns the backends that do not refuse the variant, by name."""
        return [name for name, why in self.explained if why is None]

    @cached_property
    def explained(self) -> list[tuple[str, str | None]]:
        """Returns every backend with the reason why it refuses the variant, or None."""
        return explain(call_of(self.layer(), self.input(1, 4)))

    def with_seed(self, seed: int) -> CheckSubject:
        """Returns the same variant with other parameters and inputs."""
        return dataclasses.replace(self, seed=seed)

    @property
    def label(self) -> str:
        """The variant's canonical name."""
        return load(self.variant).label


def call_of(layer: Attention, x: Tensor, window: int | None = None) -> Call:
    """Returns the call of ``softmap.attention`` that the layer makes for x."""
    q, k, v = layer.project(x, Positions.of(x.shape[1], None, x.device))
    edits: list[Any] = list(layer.edits)
    tensors: list[Tensors] = [e(x, q, k) for e in edits]
    return make_call(q, k, v, edits, tensors=tensors, window=window, causal=layer.causal)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Set torch's generator to ``seed`` for the block; the caller's state is restored
    afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def perturb(module: nn.Module, std: float = 0.2) -> Any:
    """Add N(0, std) to every parameter: at their start many edits are the identity, which
    passes every check. Parameters with a floor stay above it, since below it the gradient is
    deliberately not that of the function.
    """
    for parameter in module.parameters():
        parameter.add_(torch.randn_like(parameter) * std)
    for edit in module.modules():
        for name, floor in edit.floors.items() if isinstance(edit, Edit) else ():
            getattr(edit, name).clamp_(min=floor + 0.01)
    return module


@contextmanager
def bands(rows: int, *, apart: bool = False) -> Iterator[None]:
    """Use bands of exactly ``rows`` query rows, so that a tiny input has several; ``apart``: of
    one sequence of the batch at a time.
    """
    before = chunked.MIN_ROWS, chunked.MAX_ROWS, chunked.BAND_BYTES, folded.MASKED_ROWS
    chunked.MIN_ROWS = chunked.MAX_ROWS = folded.MASKED_ROWS = rows
    chunked.BAND_BYTES = 1 if apart else before[2]
    try:
        yield
    finally:
        chunked.MIN_ROWS, chunked.MAX_ROWS, chunked.BAND_BYTES, folded.MASKED_ROWS = before

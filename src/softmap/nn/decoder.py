"""The decoder: embeddings, blocks, final norm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from softmap.errors import SoftmapError
from softmap.nn.block import Block
from softmap.nn.cache import ONE_DOCUMENT, LayerCache
from softmap.nn.config import ModelConfig
from softmap.nn.layers import make_norm
from softmap.nn.positions import Positions, sinusoidal
from softmap.nn.record import Record
from softmap.nn.share import Share
from softmap.ops.checks import DTYPES


class Layers:
    """Embeddings, blocks and the final norm, shared by [`Decoder`][] and the base model of
    transformers (``softmap.hf.SoftmapModel``); a mixin for ``nn.Module``.
    """

    def _build(self, config: ModelConfig) -> None:
        b, dim = config.resolved_backbone, config.hidden_size
        self.position, self.dim, self.embedding_std = b.position, dim, config.embedding_std
        self.embed_tokens = nn.Embedding(config.vocab_size, dim)
        nn.init.normal_(self.embed_tokens.weight, std=config.embedding_std)
        if b.position == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, dim)
            nn.init.normal_(self.embed_positions.weight, std=config.embedding_std)
        self.layers = nn.ModuleList(Block(config, n) for n in range(config.num_hidden_layers))
        self.norm = make_norm(b.norm if b.final_norm else "none", dim, b.norm_eps, b.eps_outside)

    def _run(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None,
        caches: list[LayerCache] | None,
        documents: Tensor | None,
        record: Record | None = None,
        share: Share | None = None,
    ) -> Tensor:
        """Returns the hidden states of what [`_given`][] returns."""
        if caches and documents is not None:
            raise SoftmapError(ONE_DOCUMENT)
        seen = caches[0].seen if caches else None
        total = (seen or 0) + tokens.shape[1]
        positions = Positions.of(total, attention_mask, tokens.device, documents, seen)
        if share is not None:
            share.check(total, attention_mask, alone=not caches and record is None)
            positions, tokens = replace(positions, share=share), share.take(tokens)
        inputs_embeds = self._embedded(tokens)
        if caches:
            caches[0].check_mask(attention_mask)
        x = self._with_positions(inputs_embeds, positions)
        for n, layer in enumerate(self.layers):
            if record is not None:
                record.hidden.append(x)
            x = layer(x, positions, caches[n] if caches else None, record)
        x = self.norm(x)
        if record is not None:
            record.hidden.append(x)
        return x

    def _given(self, input_ids: Any, inputs_embeds: Any) -> Tensor:
        """Returns input_ids (B, T) or inputs_embeds (B, T, D), whichever is given; raises
        ``ValueError`` unless exactly one is, in its shape.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise SoftmapError("expected exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            t, what = input_ids, "input_ids must be integers (batch, tokens)"
            kinds: tuple[torch.dtype, ...] = (torch.int32, torch.int64)
            rest: tuple[int, ...] = ()
        else:
            t, what = inputs_embeds, f"inputs_embeds must be floats (batch, tokens, {self.dim})"
            kinds, rest = DTYPES, (self.dim,)
        if not isinstance(t, Tensor):
            raise SoftmapError(f"{what}, found {type(t).__name__}")
        if t.dtype not in kinds or t.ndim < 2 or tuple(t.shape[2:]) != rest or not t.shape[1]:
            raise SoftmapError(f"{what}, at least one token, found {tuple(t.shape)} of {t.dtype}")
        return t

    def _embedded(self, tokens: Tensor) -> Tensor:
        """Returns the embeddings (B, T, D) of token ids, and embeddings as they are; on a CPU
        raises ``ValueError`` for ids beyond the vocabulary.
        """
        if tokens.is_floating_point():
            return tokens
        try:
            return self.embed_tokens(tokens)
        except IndexError as error:
            size, low, high = self.embed_tokens.num_embeddings, tokens.min(), tokens.max()
            raise SoftmapError(
                f"input_ids must be 0 .. {size - 1}, found {int(low)} .. {int(high)}"
            ) from error

    def _with_positions(self, x: Tensor, positions: Positions) -> Tensor:
        at = positions.rows(x.shape[1]).clamp(min=0)
        if self.position == "sinusoidal":
            # Scaled to the embeddings' size at init, so that neither drowns the other.
            return x + sinusoidal(at, self.dim).to(x.dtype) * self.embedding_std
        if self.position != "learned":
            return x
        longest = positions.cols.shape[1] if positions.starts is None else int(at.max()) + 1
        if longest > self.embed_positions.num_embeddings:
            raise SoftmapError(
                f"learned positions reach {self.embed_positions.num_embeddings} tokens, "
                f"found {longest}"
            )
        return x + self.embed_positions(at)

    def new_caches(self) -> list[LayerCache]:
        """Returns an empty cache for each layer."""
        return [layer.attention.new_cache() for layer in self.layers]  # type: ignore[operator,union-attr]


class Decoder(Layers, nn.Module):
    """A decoder: token ids (B, T) to hidden states (B, T, D), normed and ready for the head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self._build(config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        caches: list[LayerCache] | None = None,
        inputs_embeds: Tensor | None = None,
        documents: Tensor | None = None,
        record: Record | None = None,
        share: Share | None = None,
    ) -> Tensor:
        """Returns hidden states (B, T, D).

        Args:
            attention_mask: (B, S), 1 at real tokens, the cached ones included.
            documents: (B, T) or (1, T) integers, the document of each token, where several are
                packed in a sequence: each then gives the same rows as alone. Not with ``caches``.
            record: receives what it asks for.
            share: returns only this rank's rows; all inputs are of whole sequences.
        """
        tokens = self._given(input_ids, inputs_embeds)
        return self._run(tokens, attention_mask, caches, documents, record, share)


@torch.no_grad()
def attention_maps(model: nn.Module, input_ids: Tensor) -> list[Tensor]:
    """Returns the edited weights of every layer for input_ids (1, T): a list of (H', T, T),
    float32.

    ``model`` is a [`Decoder`][], or a module that has one (the transformers model classes).
    """
    found: list[Tensor] = []

    def look(module: nn.Module, args: tuple) -> None:
        found.append(module.maps(args[0])[0].float().cpu())  # type: ignore[operator]

    hooks = [
        m.attention.register_forward_pre_hook(look)  # type: ignore[union-attr,operator]
        for m in model.modules()
        if isinstance(m, Block)
    ]
    try:
        model(input_ids)
    finally:
        for hook in hooks:
            hook.remove()
    return found

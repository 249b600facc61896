"""The Transformer block: norms, the two branches, their skips and gains."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from softmap.nn.attention import Attention
from softmap.nn.cache import LayerCache
from softmap.nn.config import ModelConfig
from softmap.nn.layers import MLP, Gain, make_norm
from softmap.nn.positions import Positions
from softmap.nn.record import Record


class Block(nn.Module):
    """A layer of the Transformer; [`softmap.nn.Backbone`][] has the maths of its two forms."""

    attention_skip: Gain
    attention_gain: Gain
    mlp_skip: Gain
    mlp_gain: Gain
    # transformers' names; its models set them. The backward pass then computes a block once more
    # from its input, and nothing else of it is kept.
    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Tensor]

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        b, dim = config.resolved_backbone, config.hidden_size
        self.parallel = b.block == "parallel"
        self.attention = Attention(
            dim, config.num_attention_heads, config.variant,
            kv_heads=config.num_key_value_heads, head_dim=config.head_dim,
            layer=layer, depth=config.num_hidden_layers, impl=config.impl, **config.backbone,
        )  # fmt: skip
        self.mlp = MLP(dim, config.width, b.mlp, b.bias)
        if b.starts_at_zero("mlp"):
            nn.init.zeros_(self.mlp.down_proj.weight)
        own_norm = not (self.parallel and b.shared_norm)
        size = (dim, b.norm_eps, b.eps_outside)
        self.attention_norm = make_norm(b.branch_norm(layer, "attention"), *size)
        self.mlp_norm = make_norm(b.branch_norm(layer, "mlp"), *size) if own_norm else None
        # A fixed zero stays fixed: a removed skip must not grow back.
        gains = {
            "attention_skip": b.attention_skip,
            "attention_gain": b.attention_gain,
            "mlp_skip": b.mlp_skip,
            "mlp_gain": b.mlp_gain,
        }
        for name, value in gains.items():
            trainable = b.trainable_gains and not name.endswith("skip")
            setattr(self, name, Gain(value, trainable))

    def forward(
        self,
        x: Tensor,
        positions: Positions | None = None,
        cache: LayerCache | None = None,
        record: Record | None = None,
    ) -> Tensor:
        """Returns the residual stream (B, T, D) after the block; ``record`` receives edited
        maps.
        """
        if self.gradient_checkpointing and self.training:
            return self._gradient_checkpointing_func(self._run, x, positions, cache, record)
        return self._run(x, positions, cache, record)

    def _run(
        self,
        x: Tensor,
        positions: Positions | None,
        cache: LayerCache | None,
        record: Record | None,
    ) -> Tensor:
        normed = self.attention_norm(x)
        attended = self.attention_gain(self.attention(normed, positions, cache, record=record))
        if self.parallel:
            own = normed if self.mlp_norm is None else self.mlp_norm(x)
            return _join(x, attended + self.mlp_gain(self.mlp(own)), self.mlp_skip)
        assert self.mlp_norm is not None
        x = _join(x, attended, self.attention_skip)
        return _join(x, self.mlp_gain(self.mlp(self.mlp_norm(x))), self.mlp_skip)


def _join(x: Tensor, branch: Tensor, skip: Gain) -> Tensor:
    """Returns skip * x + branch in the dtype of the residual stream, which autocast must not
    narrow.
    """
    branch = branch.to(torch.promote_types(x.dtype, branch.dtype))
    return branch if skip.absent else skip(x) + branch

"""The gains of the simplified blocks' branches, and what trains: the config's word on both."""

from __future__ import annotations

import torch
from torch import Tensor

from softmap.interop.options import OptionReader
from softmap.interop.source import WeightReader
from softmap.nn import Block
from softmap.nn.layers import Gain

# Ours, theirs, and the option that makes it trainable.
GAINS = (
    ("attention_gain", "attn_block_resid_gain", "trainable_attn_block_gains"),
    ("attention_skip", "attn_block_skip_gain", "trainable_attn_block_gains"),
    ("mlp_gain", "mlp_block_resid_gain", "trainable_mlp_block_gains"),
    ("mlp_skip", "mlp_block_skip_gain", "trainable_mlp_block_gains"),
)


def branch_gains(
    source: WeightReader, options: OptionReader, block: Block, prefix: str
) -> dict[str, Tensor]:
    """Put the branches' gains into ``block``; returns the weights of the trainable ones."""
    weights = {}
    for ours, theirs, trainable in GAINS:
        value = source.take(prefix + theirs, 1)
        skip = ours.endswith("skip")
        absent = skip and options.number(theirs, 1.0) == 0
        absent |= ours == "attention_skip" and block.parallel
        learns = options.flag(trainable) and not absent and not (skip and block.parallel)
        with torch.device("meta"):
            setattr(block, ours, Gain(0.0 if absent else value.item(), learns))
        if learns:
            weights[f"{ours}.gain"] = value
    return weights


def freeze(block: Block, options: OptionReader) -> None:
    """Freeze what the authors' code does not train."""
    frozen = {"v_proj.bias", "o_proj.bias", "up_proj.bias", "down_proj.bias", "residual.bias"}
    for side, name in (("value", "v_proj"), ("output", "o_proj")):
        option = "trainable_value_gains" if side == "value" else "trainable_proj_gains"
        if not options.flag(option):
            frozen |= {f"{name}.skip_gain", f"{name}.residual_gain"}
    if not options.flag("trainable_attn_mat_gains"):
        frozen |= {"0.alpha", "0.beta", "0.gamma"}
    if not options.flag("centre_attn"):
        frozen.add("0.alpha")
    if options.number("centre_attn_gain", 1.0) == 0:
        frozen.add("0.gamma")
    for name, parameter in block.named_parameters():
        if name.endswith(tuple(frozen)):
            parameter.requires_grad_(False)

"""Adds edits to a model of softmap's own, whose weights and edits stay."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from softmap.errors import SoftmapError
from softmap.hf.classification import SoftmapForSequenceClassification
from softmap.hf.configuration import SoftmapConfig
from softmap.hf.modeling import SoftmapForCausalLM, SoftmapModel
from softmap.hf.swapped.attention import new_weights, queries
from softmap.hf.swapped.place import configure
from softmap.maps import STAGES, Edit, chain
from softmap.nn import Attention, own

MODELS = (SoftmapModel, SoftmapForCausalLM, SoftmapForSequenceClassification)


def extend(model: Any, label: str, impl: str) -> dict[int, dict[str, int]]:
    """Add the edits of the variant ``label`` after a model's own, in all layers.

    All are built before one is put in. Returns, for each layer, how many weights of which
    parameters are new. Raises ``ValueError`` where the two variants cannot be combined, or the
    weights do not fit.
    """
    config = _config(model.config, label, impl)
    base = model.base_model
    made = [_made(block.attention, config, n) for n, block in enumerate(base.layers)]
    configure(model, config)
    for block, (attention, _) in zip(base.layers, made, strict=True):
        block.attention = attention
    return {n: fresh for n, (_, fresh) in enumerate(made)}


def _config(config: SoftmapConfig, label: str, impl: str) -> SoftmapConfig:
    if own.names_code(config.variant):
        raise SoftmapError(
            f"the model's variant is a file of its own, {config.variant}: expected one of softmap's"
        )
    new = copy.deepcopy(config)
    plain = config.variant == "transformer++"
    new.variant = label if plain else f"{config.variant}+{label}"
    new.impl = config.impl if impl == "auto" else impl
    new.resolve()
    return new


def _made(old: Attention, config: SoftmapConfig, layer: int) -> tuple[Attention, dict[str, int]]:
    weight = next(old.parameters())
    with torch.device(weight.device):
        new = Attention(
            config.hidden_size, config.num_attention_heads, config.variant,
            kv_heads=config.num_key_value_heads, head_dim=config.head_dim, layer=layer,
            depth=config.num_hidden_layers, impl=config.impl, **(config.backbone or {}),
        )  # fmt: skip
    kept = _adopted(old, new, config)
    for module in new.modules():
        module._is_hf_initialized = True  # type: ignore[assignment]  # they did it themselves
    return new.to(weight.dtype).train(old.training), new_weights(new, old.q_proj, kept)


def _adopted(old: Attention, new: Attention, config: SoftmapConfig) -> list[nn.Module]:
    """Move the modules of ``old`` to ``new`` and return them."""
    kept: list[nn.Module] = [old.q_proj]
    new.q_proj = _queries(old, new, config)
    for name in ("k_proj", "v_proj", "o_proj", "q_norm", "k_norm"):
        module = getattr(old, name)
        if name.endswith("norm") and isinstance(module, nn.Identity):
            continue
        _check_same(name, module, getattr(new, name), config)
        setattr(new, name, module)
        kept.append(module)
    for stage in STAGES:
        # The model's own come first: that is the order of the composition.
        for (at, edit), (_, mine) in zip(
            chain(new.edits, stage), chain(old.edits, stage), strict=False
        ):
            _check_same(type(edit).__name__, mine, edit, config)
            new.edits[at] = mine
            kept.append(mine)
    return kept


def _queries(old: Attention, new: Attention, config: SoftmapConfig) -> nn.Linear:
    if old.heads.maps == new.heads.maps and old.heads.key_of_map == new.heads.key_of_map:
        return old.q_proj
    if old.heads.maps != old.heads.outputs:
        raise SoftmapError(
            f"{config.variant}: the model subtracts pairs of maps already, expected one that does "
            f"not: found {old.heads.maps} maps for {old.heads.outputs} heads"
        )
    return queries(old.q_proj, new, config.num_attention_heads)


def _check_same(what: str, old: nn.Module, new: nn.Module, config: SoftmapConfig) -> None:
    """Raise ``ValueError`` unless a module of the model can replace the new one."""
    found, expected = _sizes(old), _sizes(new)
    if found != expected:
        name = next((n for n in found if found[n] != expected.get(n)), "parameters")
        raise SoftmapError(
            f"{config.variant}: the model's {what} does not fit: expected {name} of "
            f"{expected.get(name)}, found {found.get(name)}"
        )


def _sizes(module: nn.Module) -> dict[str, Any]:
    """Returns what must be equal for one module to replace another."""
    maps = {"maps": module.maps} if isinstance(module, Edit) else {}
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    return {"type": type(module).__name__, **maps, **shapes}

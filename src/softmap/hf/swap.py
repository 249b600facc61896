"""``swap``: softmap attention in the layers of a transformers model, in place, with one call."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from softmap.errors import SoftmapError, shown
from softmap.hf.swapped.attention import SwappedAttention
from softmap.hf.swapped.base import check_implementation
from softmap.hf.swapped.config import SwappedConfig, swapped_into
from softmap.hf.swapped.kinds import KINDS, Family
from softmap.hf.swapped.models import CONFIG_OF
from softmap.hf.swapped.place import become
from softmap.nn.part import attention_part, check_backend

logger = logging.get_logger(__name__)


def swap(model: Any, variant: Any, layers: Any = None, *, impl: str = "auto") -> Any:
    """Put the attention of ``variant`` into ``layers`` of a transformers model, in place; returns
    the model.

    Args:
        model: a Llama, Mistral, Qwen2, Qwen3 or GPT-NeoX base model, causal language model or
            sequence classifier. It becomes one of softmap's classes (``SoftmapLlamaForCausalLM``),
            so that it can be saved and loaded.
        variant: anything [`softmap.variants.load`][] takes that changes attention alone.
        layers: their indices, negative ones from the end; None for all.
        impl: the backend of ``softmap.attention``.

    Further calls swap further layers. The weights of keys, values, the output and QK norms are
    kept, and those of queries as far as the variant has the same maps; the edits' own, and the
    queries of additional maps (``diff2``: the second of each pair), are new. A log line says how
    many. The model's rotary positions and windows stay, unless the variant has its own positions or
    a narrower window.

    Raises ``ValueError``, and leaves the model as it was, where a part of it cannot be swapped.
    """
    label = attention_part(variant)
    fresh = put(model, label, layers, impl)
    count = sum(sum(sizes.values()) for sizes in fresh.values())
    logger.warning(
        f"softmap.hf.swap: {label} in {len(fresh)} of {len(model.base_model.layers)} layers; "
        f"{count:,} weights are new and must be trained, all others are kept"
    )
    return model


def put(model: Any, label: str, layers: Any, impl: str) -> dict[int, dict[str, int]]:
    """Put the attention of the variant ``label`` into a model; returns, for each layer, how many
    weights of which parameters are new. Raises ``ValueError`` as [`swap`][] does.
    """
    made = _configuration_of(model)
    check_backend(impl)
    base = model.base_model
    wanted = _chosen(layers, len(base.layers))
    _check_model(model, made)
    for n in wanted:
        _check_layer(made.kind, base, n)
    entry = {"variant": label, "layers": wanted, "impl": impl}
    return become(model, swapped_into(model.config, made, entry))


def _configuration_of(model: Any) -> type[SwappedConfig]:
    """Returns softmap's configuration class for a model of transformers' or of ours."""
    if (found := CONFIG_OF.get(type(model))) is not None:
        return found
    names = ", ".join(kind.prefix for kind in KINDS)
    raise SoftmapError(
        f"attention can be put into a base model, causal language model or sequence classifier of "
        f"{names} itself (not wrapped, nor a class of one's own), found {type(model).__name__}"
    )


def _check_model(model: Any, made: type[SwappedConfig]) -> None:
    check_implementation(model.config._attn_implementation)
    if type(model.config) not in (made, made.__bases__[-1]):
        raise SoftmapError(
            f"the model's configuration must be {made.__bases__[-1].__name__} itself, "
            f"found {type(model.config).__name__}"
        )
    if getattr(model, "hf_quantizer", None) is not None:
        raise SoftmapError(
            f"a quantised model cannot be swapped, found {shown(model.hf_quantizer)}: expected "
            "weights as they were trained"
        )


def _chosen(layers: Any, depth: int) -> list[int]:
    if layers is None:
        return list(range(depth))
    if isinstance(layers, str | bytes) or not isinstance(layers, Iterable):
        raise SoftmapError(f"layers must be a list of numbers or None, found {shown(layers)}")
    given = list(layers)
    numbers = [n for n in map(_whole, given) if n is not None and -depth <= n < depth]
    if not given or len(numbers) < len(given):
        raise SoftmapError(
            f"layers must be numbers from {-depth} to {depth - 1}, at least one, "
            f"found {shown(given)}"
        )
    wanted = sorted({n % depth for n in numbers})
    if len(wanted) < len(given):
        raise SoftmapError(f"layers must name each layer once, found {shown(given)}")
    return wanted


def _whole(n: Any) -> int | None:
    """Returns an integer, also NumPy's or torch's, as Python's own; None for anything else."""
    if isinstance(n, bool) or getattr(n, "dtype", None) is torch.bool:
        return None
    try:
        return operator.index(n)
    except (TypeError, ValueError):
        return None


def _check_layer(kind: Family, base: Any, n: int) -> None:
    """Raise ``ValueError`` unless the attention of layer ``n`` is as transformers built it."""
    old = getattr(base.layers[n], kind.attention)
    if isinstance(old, SwappedAttention):
        raise SoftmapError(
            f"layer {n} is swapped already, for {base.config.swapped()[n]['variant']}: expected "
            "layers with their own attention"
        )
    if type(old).__name__ != f"{kind.prefix}Attention":
        raise SoftmapError(
            f"layer {n}: expected {kind.prefix}Attention, found {type(old).__name__}"
        )
    uses = [m for m, block in enumerate(base.layers) if getattr(block, kind.attention) is old]
    if len(uses) > 1:
        raise SoftmapError(f"layers {uses} are one module: expected attention of its own for each")
    for name, expected in (("is_causal", True), ("attention_dropout", 0)):
        if (found := getattr(old, name, expected)) != expected:
            raise SoftmapError(
                f"layer {n}: softmap attention is causal and has no dropout: expected "
                f"{name}={expected}, found {shown(found)}"
            )
    width = old.head_dim if hasattr(old, "head_dim") else old.head_size
    if abs(old.scaling - width**-0.5) > 1e-6 * old.scaling:
        raise SoftmapError(
            f"layer {n}: scores must be scaled by the width of a head, {width}^-0.5, "
            f"found {old.scaling}"
        )
    for name in kind.linears:
        _check_linear(f"layer {n}: {name}", getattr(old, name))
    if any(hasattr(m, "_hf_hook") for m in (base, base.layers[n], *old.modules())):
        raise SoftmapError(
            f"layer {n} is managed by accelerate, which would miss the new attention: expected a "
            "model on one device, swapped before it is dispatched or offloaded"
        )


def _check_linear(name: str, linear: Any) -> None:
    if type(linear) is not nn.Linear or "forward" in vars(linear):
        raise SoftmapError(
            f"{name} must be a plain nn.Linear (neither quantised nor adapted nor "
            f"patched), found {type(linear).__name__} of {type(linear).__module__}"
        )
    weight = linear.weight
    wide = weight.is_floating_point() and weight.element_size() > 1
    if type(weight.data) is not torch.Tensor or weight.is_meta or not wide:
        place = "meta" if weight.is_meta else f"a {type(weight.data).__name__} of {weight.dtype}"
        raise SoftmapError(
            f"{name} must hold floating weights of at least 16 bits on a device, found {place}"
        )

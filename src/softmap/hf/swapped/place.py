"""Puts swapped layers into a model, which becomes one of softmap's classes."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.utils.output_capturing import (
    _CAN_RECORD_REGISTRY,
    install_output_capuring_hook,
)

from softmap.errors import SoftmapError
from softmap.hf.swapped.attention import SwappedAttention, fitted
from softmap.nn import own

_CAPTURE = install_output_capuring_hook.__module__


def become(model: Any, config: Any) -> dict[int, dict[str, int]]:
    """Give a model, of a family's class or of ours, the layers that the configuration names.

    All are built before one is put in. Returns, for each layer, how many weights of which
    parameters are new.
    """
    base = model.base_model
    made = {
        n: _made(base, config, n, entry)
        for n, entry in config.swapped().items()
        if not isinstance(getattr(base.layers[n], config.kind.attention), SwappedAttention)
    }
    for each in {id(m): m for m in (model, base)}.values():
        each.__class__ = config.classes[type(each).__name__.removeprefix("Softmap")]
        # As a dict, which it was before it had setters of its own.
        dict.__setitem__(_CAN_RECORD_REGISTRY, str(type(each)), each._can_record_outputs)
    configure(model, config)
    for n, (swapped, _) in made.items():
        if getattr(base, "_output_capturing_hooks_installed", False):
            install_output_capuring_hook(swapped, "attentions", 1)
        setattr(base.layers[n], config.kind.attention, swapped)
    return {n: fresh for n, (_, fresh) in made.items()}


def _made(
    base: Any, config: Any, n: int, entry: dict[str, Any]
) -> tuple[SwappedAttention, dict[str, int]]:
    old = getattr(base.layers[n], config.kind.attention)
    attention, fresh = fitted(
        config.kind.projections(old), entry["variant"], n, len(base.layers),
        config.kind.window(config, n), entry["impl"],
    )  # fmt: skip
    _check_kept(n, old, attention)
    if own.names_code(entry["variant"]) and not attention.o_proj.weight.is_meta:
        heads = attention.heads
        own.check_tokens(attention.edits, attention.dim, heads.maps, heads.keys, attention.head_dim)
    return SwappedAttention(attention, n).train(old.training), fresh


def _check_kept(n: int, old: nn.Module, new: nn.Module) -> None:
    """Raise ``ValueError`` for changes to a module of layer ``n`` that the new one would lose."""
    modules, weights = set(new.modules()), set(new.parameters())
    lost = [(name, m) for name, m in old.named_modules() if m not in modules]
    done = [f"{what} of {name or 'the attention'}" for name, m in lost for what in _changes(m)]
    for name, weight in old.named_parameters():
        if weight not in weights and (weight._backward_hooks or weight._post_accumulate_grad_hooks):
            done.append(f"hooks of {name}")
    if done:
        raise SoftmapError(
            f"layer {n}: what was patched or hooked would be lost: expected it as transformers "
            f"makes it, found {', '.join(done)}"
        )


def _changes(module: nn.Module) -> list[str]:
    """Returns the methods and kinds of hooks that were set on a module, except transformers'
    own.
    """
    given = vars(module)
    hooked = [
        name for name, hooks in given.items() if name.endswith("_hooks")
        and any(getattr(hook, "__module__", "") != _CAPTURE for hook in hooks.values())
    ]  # fmt: skip
    return hooked + [
        n for n, value in given.items() if callable(value) and hasattr(type(module), n)
    ]


def configure(model: Any, config: Any) -> None:
    """Give all of a model a configuration. A model that shares the old one keeps it; but that of a
    base model changes in place, for a head around it, which is not visible from here.
    """
    if model is model.base_model:
        model.config.__class__ = type(config)
        vars(model.config).update(vars(config))
        return
    shared = {id(model.config), id(model.base_model.config)}
    for module in model.modules():
        if id(getattr(module, "config", None)) in shared:
            module.config = config

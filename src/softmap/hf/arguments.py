"""Keyword arguments of ``forward`` beyond its own: known, refused, or unknown."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from softmap.errors import SoftmapError, nearest
from softmap.nn.positions import INTEGERS, recorded

logger = logging.get_logger(__name__)

# What the loss takes; the Trainer passes the first.
LOSS = ("num_items_in_batch", "shift_labels", "ignore_index")

# Where packed sequences begin, as padding-free collators give it; [`softmap.hf.packing`][].
PACKING = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")

# Arguments of a head; named in the error, since one of them may have been meant.
_HEAD = ("labels", "logits_to_keep", "return_dict")

# Others that transformers documents for some decoder: (values without effect, why not others).
_REFUSED: dict[str, tuple[tuple, str]] = {
    "is_causal": ((None, True), "every map is causal"),
    "output_router_logits": ((None, False), "there are no experts"),
    "token_type_ids": ((None,), "there are no segment embeddings"),
    "head_mask": ((None,), "heads cannot be masked"),
    "encoder_hidden_states": ((None,), "there is no cross-attention"),
    "encoder_attention_mask": ((None,), "there is no cross-attention"),
}


def taken(kwargs: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Remove those of ``names`` from ``kwargs`` and return them; None counts as not given."""
    found = {name: kwargs.pop(name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def check_rest(kwargs: Mapping[str, Any], forward: Callable[..., Any]) -> None:
    """Raise ``ValueError`` for a keyword that ``forward`` does not know or cannot honour."""
    for name, value in kwargs.items():
        if name not in _REFUSED:
            known = [*inspect.signature(forward).parameters, *PACKING, *LOSS, *_HEAD]
            raise SoftmapError(f"forward() has no argument {name!r}{nearest(name, known)}")
        nothing, why = _REFUSED[name]
        if not any(value is v for v in nothing):
            raise SoftmapError(
                f"softmap does not take {name}: {why}; expected {' or '.join(map(str, nothing))}, "
                f"found {_short(value)}"
            )


def real_tokens(mask: Tensor | None) -> Tensor | None:
    """Returns attention_mask (B, S) as booleans where it is ones and zeros in floats, as prompt and
    prefix tuning give it.

    Other floats may be an additive mask: they are returned as they are.
    """
    if not isinstance(mask, Tensor) or mask.ndim != 2 or not mask.is_floating_point():
        return mask
    if mask.device.type == "meta":
        return mask.bool()
    if recorded():  # it cannot be looked at
        return mask
    ones = mask == 1
    return ones if bool((ones | (mask == 0)).all() & ones.any()) else mask


def check_labels(labels: Any, ids: Any, embeds: Any, logits_to_keep: Any) -> None:
    """Raise ``ValueError`` unless labels are (B, T), one for each token, and all logits are
    kept.
    """
    if labels is None:
        return
    if not isinstance(logits_to_keep, int) or logits_to_keep:
        raise SoftmapError("labels are for all logits: expected logits_to_keep=0, found another")
    tokens = ids if embeds is None else embeds
    shape = tuple(getattr(tokens, "shape", ())[:2])
    if not isinstance(labels, Tensor) or labels.dtype not in INTEGERS or labels.shape != shape:
        is_tensor = isinstance(labels, Tensor)
        found = f"{tuple(labels.shape)} of {labels.dtype}" if is_tensor else _short(labels)
        raise SoftmapError(f"labels must be integers (batch, tokens) = {shape}, found {found}")


def check_places(places: Tensor | None, seen: int, tokens: int) -> None:
    """Raise ``ValueError`` unless ``cache_position`` (T,) agrees with the cache."""
    if places is None:
        return
    expected = torch.arange(seen, seen + tokens, device=places.device)
    if places.shape != expected.shape or not torch.equal(places.to(expected.dtype), expected):
        raise SoftmapError(
            f"cache_position must be {seen} .. {seen + tokens - 1}, the places after the cache's "
            "tokens, found others"
        )


def caching(model: Any, asked: bool | None, documents: Tensor | None, cache: Any) -> bool:
    """Whether a base ``model`` keeps a cache in this pass; ``asked`` is the value of use_cache.

    Raises ``ValueError`` for a cache that gradient checkpointing would feed twice.
    """
    modules = model.modules() if model.training else ()
    again = any(getattr(module, "gradient_checkpointing", False) for module in modules)
    if again and cache is not None:
        raise SoftmapError(
            "gradient checkpointing would feed a cache twice: expected past_key_values=None in "
            f"training, found a cache of {cache.get_seq_length()} tokens"
        )
    if again and asked:
        logger.warning_once("use_cache=True is off: gradient checkpointing has no cache")
        return False
    if asked is None:
        off = model.training or documents is not None or recorded()
        return bool(model.config.use_cache and not off)
    return asked


def kept(wanted: Any, states: list[Tensor]) -> tuple[Tensor | None, ...] | None:
    """Returns hidden states as transformers asks for them: all for True; for a number or a list of
    numbers (negative ones from the end) those layers, and None for the others.
    """
    if wanted is None or wanted is False:
        return None
    if wanted is True:
        return tuple(states)
    chosen = [wanted] if isinstance(wanted, int) else list(wanted)
    if not all(isinstance(n, int) and -len(states) <= n < len(states) for n in chosen):
        raise SoftmapError(
            f"output_hidden_states must be True, False or numbers of hidden states below "
            f"{len(states)}, found {wanted!r}"
        )
    places = {n % len(states) for n in chosen}
    return tuple(state if n in places else None for n, state in enumerate(states))


def _short(value: Any) -> str:
    return f"a {type(value).__name__}" if isinstance(value, Tensor | list | tuple) else repr(value)

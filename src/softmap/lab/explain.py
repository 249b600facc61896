"""What a variant does, what it costs, and which backend would run it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from inspect import Parameter, signature
from typing import Any

import torch

from softmap import ops
from softmap.cost.hardware import GIB
from softmap.errors import SoftmapError
from softmap.lab.preflight import choose_device, memory
from softmap.nn import Attention, Backbone, ModelConfig, accounting
from softmap.nn.positions import Positions
from softmap.variants import Composition, find, load, names


def backends(
    config: Any,
    context: int,
    *,
    batch: int = 1,
    layer: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> list[tuple[str, str | None]]:
    """Returns every backend in order of preference, with the reason why it refuses, or None.

    The first that does not refuse is the one that ``impl="auto"`` takes.

    Args:
        config: the model's; the call is that of one layer on ``batch`` rows of ``context`` tokens.
        dtype: the dtype of the call.
    """
    model = config if isinstance(config, ModelConfig) else config.model_config()
    device = choose_device(str(device))
    _check_memory(model, batch * context, device)
    with torch.device(device), torch.no_grad():
        attention = Attention(
            model.hidden_size, model.num_attention_heads, model.variant,
            kv_heads=model.num_key_value_heads, head_dim=model.head_dim, layer=layer,
            depth=model.num_hidden_layers, **model.backbone,
        ).to(dtype)  # fmt: skip
        x = torch.zeros(batch, context, model.hidden_size, dtype=dtype)
        q, k, v = attention.project(x, Positions.of(context, None, x.device))
        edits: list[Any] = list(attention.edits)
        tensors = [edit(x, q, k) for edit in edits]
        call = ops.make_call(q, k, v, edits, tensors=tensors, window=attention.window)
    return ops.explain(call)


def _check_memory(model: ModelConfig, tokens: int, device: torch.device) -> None:
    """Raise ``SoftmapError`` for sizes that do not fit into memory.

    The backends are asked about a real layer and real inputs.
    """
    head = model.head_dim or model.hidden_size // model.num_attention_heads
    width = model.hidden_size + 3 * head * model.num_attention_heads
    needed, there = 4 * (tokens * width + model.hidden_size * width), memory(device)
    if needed > there:
        raise SoftmapError(
            f"one layer on {tokens:,} tokens needs at least {needed / GIB:,.0f} GiB, "
            f"{device.type} has {there / GIB:,.0f} GiB: lower the sizes, the batch or the context"
        )


def chosen(
    config: Any,
    context: int,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> str:
    """Returns the backend that ``impl="auto"`` takes."""
    found = backends(config, context, device=device, dtype=dtype)
    return next(name for name, refusal in found if refusal is None)


def explain(
    spec: str, *, hidden_size: int, heads: int, layers: int, context: int, batch: int, vocab: int,
    device: str = "cpu", dtype: str = "float32",
) -> list[str]:  # fmt: skip
    """Returns lines on a variant: the maths, the options, the costs beside transformer++, the
    backends.

    Raises ``SoftmapError`` for an unknown variant or sizes that do not fit it.
    """
    shape = {"hidden_size": hidden_size, "num_attention_heads": heads, "num_hidden_layers": layers}
    shape |= {"vocab_size": vocab, "max_position_embeddings": context}
    found = load(spec)
    config = ModelConfig(variant=found.label, **shape)  # type: ignore[arg-type]
    plain = ModelConfig(**shape)  # type: ignore[arg-type]
    refusals = backends(config, context, batch=batch, device=device, dtype=getattr(torch, dtype))
    title = f"{found.label}: {found.title}" + (f" ({found.paper})" if found.paper else "")
    return [
        title,
        *([found.source] if found.source else []),
        f"\n{found.doc}\n",
        *_options(found, spec),
        f"{layers} layers, width {hidden_size}, {heads} heads, context {context}, batch {batch}",
        *_costs(config, plain, context),
        "backends, in order of preference (auto takes the first that can):",
        *(f"  {name:<10} {f'refuses: {why}' if why else 'can run this'}" for name, why in refusals),
    ]


def _options(found: Composition, spec: str) -> Iterator[str]:
    """Yields each member's options, the default in brackets where it differs."""
    for name, given in found.members:
        known = signature(find(name, spec)).parameters.values()
        listed = [
            _option(p, given) for p in known if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        ]
        if listed:
            yield f"options of {name}, with their defaults: {', '.join(listed)}\n"
        if any(p.kind is p.VAR_KEYWORD for p in known):
            fields = asdict(Backbone.of(found.parts.backbone)).items()
            here = ", ".join(f"{field}={_spelled(value)}" for field, value in fields)
            yield f"options of {name}, the backbone's fields, as they are here: {here}\n"


def _option(option: Parameter, given: dict[str, Any]) -> str:
    name, default = option.name, option.default
    if name not in given or given[name] == default:
        return f"{name}={_spelled(default)}"
    return f"{name}={_spelled(given[name])} (default {_spelled(default)})"


def _spelled(value: Any) -> str:
    """Returns a value as it is written in a variant's text: true, none, 4."""
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def catalogue() -> Iterator[str]:
    """Yields a line for each variant: its name, title and paper."""
    width = max(map(len, names()))
    for name in names():
        found = load(name)
        yield f"{name:<{width}}  {found.title}" + (f", {found.paper}" if found.paper else "")


def _costs(config: ModelConfig, plain: ModelConfig, context: int) -> Iterator[str]:
    def line(what: str, mine: int, theirs: int) -> str:
        ratio = f"{mine / theirs:.3f}" if theirs else "-"
        return f"  {what:<46} {mine:>16,}   {ratio}"

    yield f"{f'at its default MLP width, {config.width}':<64}   over transformer++"
    both = [accounting.parameters(c) for c in (config, plain)]
    yield line("parameters", both[0]["total"], both[1]["total"])
    flops = [accounting.flops_per_token(c, context) for c in (config, plain)]
    yield line("FLOPs per token, forward and backward", flops[0], flops[1])
    cache = [accounting.cache_bytes_per_token(c) for c in (config, plain)]
    yield line("cache bytes per token, 2-byte numbers", cache[0], cache[1])

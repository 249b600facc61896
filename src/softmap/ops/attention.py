"""``attention()``: check the call, choose a backend, run it, apply the output edits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Unpack

import torch
from torch import Tensor

from softmap.errors import SoftmapError
from softmap.maps import Edit, Tensors, heads_after
from softmap.ops import (
    checks,
    chunked,
    compiled,
    finite,
    folded,
    kinds,
    memory,
    native,
    qualify,
    reference,
    triton,
)
from softmap.ops.call import Call, band_of, exact
from softmap.ops.derivatives import differentiable_again, transformed
from softmap.ops.documents import ends_of, recorded, starts_of
from softmap.ops.heads import Heads
from softmap.ops.options import AttentionOptions, check_names
from softmap.ops.output import lse_call, run_whole

LONGEST = 1 << 30  # no sequence is longer; a window fits 32 bits
# In order of preference; ``auto`` takes the first that does not refuse.
BACKENDS: dict[str, ModuleType] = {
    "native": native,
    "triton": triton,
    "folded": folded,
    "compiled": compiled,
    "chunked": chunked,
    "reference": reference,
}


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    edits: Sequence[Edit] = (),
    *,
    impl: str = "auto",
    **options: Unpack[AttentionOptions],
) -> Tensor:
    """Returns attention with an edited map, (B, H', T, d'); causal by default.

        o = edits_out( edits_w( softmax( edits_s(q k^T * scale) + mask ) ) v )

    A normaliser is an edit that replaces the softmax. H' is the number of heads after the edits. A
    row that sees no key (padding at the left) is zero before the output edits, on every backend.

    Args:
        q: (B, H, T, d), after rotary positions.
        k: (B, G, S, d), after rotary positions.
        v: (B, G', S, d'), S >= T: the last T keys belong to the queries (S > T when decoding with a
            cache). With ``causal=False`` every row sees every key, of its own sequence (S = T) or
            of another.
        edits: those of a variant, from [`softmap.edits`][], or a list of [`softmap.maps.Edit`][]
            modules, each stage applied in the order of the list; edits with per-token tensors need
            ``x`` (B, S, D), the layer's input, one row per key token.
        impl: ``auto`` or the name of a backend; a named one never falls back to another.
        options: those of [`softmap.ops.AttentionOptions`][]: causal, x, key_x, tensors, window,
            scale, key_mask, documents, rows, cols, running.

    Derivatives of second and higher order, torch.func and vmap use the reference, whatever ``impl``
    (under torch.func a named one is refused). On a CPU outside of compilers, NaN and infinity reach
    only the rows that see them, which are NaN; a row of -inf alone is zero.

    Raises ``ValueError`` in one line for shapes that do not fit, an unknown option, and an unknown
    or refusing ``impl``. If memory runs out, torch's own error is raised with the call, the bytes
    and the backend that would take fewer.
    """
    call = make_call(q, k, v, edits, **options)
    with exact(q.device):
        name = choose(call, impl)
        o = _run(call, name)
        if finite.suspect(o, call):
            o = finite.isolated(_in_bands, call)
        elif name == "reference":
            return o
        return differentiable_again(o, call, reference.whole)


def _in_bands(call: Call) -> Tensor:
    """Returns the call's output by plain torch, in bands."""
    return run_whole(chunked, call, plain=True)


def _run(call: Call, impl: str) -> Tensor:
    """Returns the output of the named backend after the output edits; if memory runs out, the
    error says what would take less.
    """
    try:
        return run_whole(BACKENDS[impl], call)
    except (RuntimeError, MemoryError) as error:
        if not memory.is_out_of_memory(error):
            raise
        # The same kind of error: callers that retry with a smaller batch still catch it.
        raise type(error)(memory.message(call, impl, BACKENDS)) from error


def attention_map(
    q: Tensor,
    k: Tensor,
    edits: Sequence[Edit] = (),
    *,
    value_heads: int | None = None,
    **options: Unpack[AttentionOptions],
) -> Tensor:
    """Returns the edited weights, (B, H', T, S), dense. Options are those of [`attention`][].

    Args:
        value_heads: G', which decides which key head each map is paired with (``ops.heads.Heads``);
            by default as many as keys and output heads allow, which is wrong for diff with grouped
            keys.
    """
    checks.check_inputs(q, k, k, causal=options.get("causal") is not False)
    shapes = getattr(edits, "shapes", None)
    if shapes is not None and value_heads is None:
        value_heads = shapes.values(k.shape[1])
    edits = checks.as_edits(edits)
    if value_heads is not None:
        checks.check_count("value_heads", value_heads)
    values = value_heads or _value_heads(k.shape[1], heads_after(edits, q.shape[1]))
    v = k.new_empty(k.shape[0], values, k.shape[2], 0)
    call = make_call(q, k, v, edits, **options)
    with exact(q.device):
        weights = reference.run(call, weights=True)
        if not finite.suspect(weights, call):
            return weights
        run = partial(reference.run, weights=True)
        whole = call.span(0, call.queries)._replace(first=0)
        return finite.isolated_map(run, call, band_of(call, whole))


def _value_heads(keys: int, outputs: int) -> int:
    return next(g for g in range(min(keys, outputs), 0, -1) if keys % g == 0 and outputs % g == 0)


def make_call(
    q: Tensor, k: Tensor, v: Tensor, edits: Sequence[Edit] = (), **options: Unpack[AttentionOptions]
) -> Call:
    """Check the arguments of [`attention`][] and return the call, with the edits' tensors."""
    check_names(options)
    causal = options.get("causal") is not False
    checks.check_inputs(q, k, v, causal=causal)
    kind = kinds.kind_of(q.shape[2], k.shape[2], options)
    if (check := getattr(edits, "check", None)) is not None:  # of ``softmap.edits``: their shapes
        check(q, k, v, options.get("x"))
    edits = checks.as_edits(edits)
    heads = Heads(q.shape[1], k.shape[1], v.shape[1], checks.maps_after(edits, q.shape[1]))
    kinds.check_kind(kind, edits, options)
    if (window := options.get("window")) is not None:
        checks.check_window(window)
        window = window if isinstance(window, torch.SymInt) else min(window, LONGEST)
    if (scale := options.get("scale")) is not None:
        checks.check_scale(scale)
        scale = float(scale) if isinstance(scale, int) else scale
    B, S = q.shape[0], k.shape[2]
    if (valid := options.get("key_mask")) is not None:
        checks.check_mask(valid, B, S, q.device)
        valid = valid.bool()
    documents, running = options.get("documents"), options.get("running")
    starts = None
    if documents is not None:
        checks.check_kind("documents", documents)
        starts = starts_of(documents, B, S)
        checks.check_place("documents", documents, q.device)
    if running is not None:
        checks.check_running(running, B, v.shape[1], v.shape[3], q.device)
    if starts is not None:
        checks.check_packed(edits, running)
    tensors = _tensors(edits, kind, q, k, options)
    rows, cols = _positions(q, S, kind, valid, starts, options)
    ends = None if causal or starts is None else ends_of(starts)
    return Call(
        q, k, v, edits, tensors, heads, q.shape[-1] ** -0.5 if scale is None else scale,
        window, rows, cols, valid, running, starts, ends, causal,
    )  # fmt: skip


def _tensors(
    edits: list[Edit], kind: str, q: Tensor, k: Tensor, options: AttentionOptions
) -> list[Tensors]:
    """Returns the edits' tensors, given or computed from x, q and k."""
    B, T, S = q.shape[0], q.shape[2], k.shape[2]
    given, x = options.get("tensors"), options.get("x")
    if given is None and kind == "cross":
        given = _of_two(edits, q, k, options)
    elif given is None:
        if x is not None:
            checks.check_x(x, B, S, q.device)
        given = [checks.own_tensors(e, x, q, k) for e in edits]
    return checks.check_tensors(edits, given, B, T, S, q.device)


def _of_two(edits: list[Edit], q: Tensor, k: Tensor, options: AttentionOptions) -> list[Tensors]:
    """Returns the edits' tensors in cross-attention: those of queries from x, those of keys
    from key_x.
    """
    x, key_x = options.get("x"), options.get("key_x")
    if x is not None:
        checks.check_x(x, q.shape[0], q.shape[2], q.device, of="queries")
    if key_x is not None:
        checks.check_x(key_x, k.shape[0], k.shape[2], k.device, "key_x")
    made = [checks.own_tensors(e, x, q, None, "query") for e in edits]
    keys = [checks.own_tensors(e, key_x, None, k, "key").key for e in edits]
    return [t._replace(key=key) for t, key in zip(made, keys, strict=True)]


def _positions(
    q: Tensor,
    S: int,
    kind: str,
    valid: Tensor | None,
    starts: Tensor | None,
    options: AttentionOptions,
) -> tuple[Tensor, Tensor]:
    """Returns rows (b, T) and cols (b, S), given or counted from the start of the sequence or
    document.
    """
    B, T = q.shape[0], q.shape[2]
    rows, cols = options.get("rows"), options.get("cols")
    if cols is None:
        cols = torch.arange(S, device=q.device)[None]
        cols = cols if starts is None else cols - starts
    else:
        checks.check_places("cols", cols, B, S, q.device)
        if T > 1:  # not at every step of decoding
            checks.check_increase(cols, valid, starts)
    if rows is None and kind == "cross":
        return torch.arange(T, device=q.device)[None], cols
    if rows is None:
        return cols[:, S - T :], cols
    checks.check_places("rows", rows, B, T, q.device)
    return rows, cols


def choose(call: Call, impl: str = "auto") -> str:
    """Returns the backend that ``impl`` means for this call. A named one runs or raises."""
    checks.check_impl(impl, BACKENDS)
    if impl == "auto":
        return next(name for name in BACKENDS if _passed_over(name, call) is None)
    why = _refusal(impl, call)
    if why:
        raise SoftmapError(f"impl={impl!r} cannot run this: {why}; {choose(call)!r} can")
    return impl


def explain(call: Call) -> list[tuple[str, str | None]]:
    """Returns every backend in order of preference, with the reason why ``auto`` passes it
    over, or None.
    """
    return [(name, _passed_over(name, call)) for name in BACKENDS]


def _refusal(name: str, call: Call) -> str | None:
    """Returns why the backend cannot run the call, or None."""
    why = None if name == "reference" else transformed()
    if name in ("chunked", "compiled") and recorded():
        why = "its loop over bands has no open length, as torch.export and torch.jit.trace want it"
    backend = BACKENDS[name]
    why = why or backend.refuses(call)
    if why is None and call.needs_lse and not hasattr(backend, "run_with_lse"):
        why = backend.refuses(lse_call(call))  # which takes it as an attention of its own
        why = why and f"an output edit needs the rows' log-sum-exp: {why}"
    return why


def _passed_over(name: str, call: Call) -> str | None:
    """Returns why ``auto`` does not take the backend, or None: it leaves such calls to a faster
    one (``skipped``), refuses, or runs code that has not qualified on this machine
    (``made_of``).
    """
    backend = BACKENDS[name]
    why = backend.skipped(call) if hasattr(backend, "skipped") else None
    why = why or _refusal(name, call)
    return why or (qualify.why_not(backend, call) if hasattr(backend, "made_of") else None)

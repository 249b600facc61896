"""``attention()``: check the call, choose a backend, run it, apply the output edits."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from softmap.errors import SoftmapError, nearest
from softmap.maps import Edit, Tensors, chain, heads_after, tensors_of
from softmap.ops import chunked, folded, reference
from softmap.ops.call import Call, bag
from softmap.ops.documents import starts_of
from softmap.ops.heads import Heads

# In order of preference; ``auto`` takes the first that does not refuse.
BACKENDS: dict[str, ModuleType] = {"folded": folded, "chunked": chunked, "reference": reference}


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    edits: Sequence[Edit] = (),
    *,
    x: Tensor | None = None,
    tensors: Sequence[Tensors] | None = None,
    window: int | None = None,
    scale: float | None = None,
    key_mask: Tensor | None = None,
    documents: Tensor | None = None,
    rows: Tensor | None = None,
    cols: Tensor | None = None,
    running: tuple[Tensor, Tensor] | None = None,
    impl: str = "auto",
) -> Tensor:
    """Causal attention with an edited map.

        o = edits_out( edits_w( softmax( edits_s(q k^T * scale) + mask ) ) v )

    q: (B, H, T, d). k: (B, G, S, d). v: (B, G', S, d'), S >= T: the last T keys are the tokens of
    the queries (S > T when decoding with a cache). Positions (RoPE) are already applied.
    edits: :class:`softmap.maps.Edit` modules, each stage applied in the order of the list.
    x: (B, T, D) the layer's input, for edits with per-token tensors when S == T.
    tensors: the edits' tensors instead of ``x``, from ``maps.tensors_of``; needed with a cache.
    window: keys that a row sees, its own included. scale: default 1/sqrt(d).
    key_mask: (B, S) True (or 1) at real keys, False at padding.
    documents: (B, S) or (1, S) integers, the document of each key token, where several are packed
    in one sequence; a document's tokens are neighbours. A row sees its own document alone, and
    positions count from its start. That no number comes back is checked on the CPU alone.
    rows, cols: (b, T), (b, S) token positions where they differ from the places in the arrays
    (in the document).
    running: sum (B, G', d') and count (B, 1) of the values before the first query, which
    lets edits that need the mean of all values skip a pass over the cache.
    impl: ``auto`` or a backend by name; a named one never falls back.

    Returns (B, H', T, d'), H' = heads left by the edits. Rows of padding tokens are undefined.
    Raises ``ValueError`` in one line for shapes that do not fit, an unknown or refusing ``impl``.
    """
    call = make_call(
        q, k, v, edits, x=x, tensors=tensors, window=window, scale=scale, key_mask=key_mask,
        documents=documents, rows=rows, cols=cols, running=running,
    )  # fmt: skip
    with torch.autocast(q.device.type, enabled=False):
        o = BACKENDS[choose(call, impl)].run(call)
        return apply_output(o, call)


def attention_map(
    q: Tensor,
    k: Tensor,
    edits: Sequence[Edit] = (),
    *,
    value_heads: int | None = None,
    **options: object,
) -> Tensor:
    """The edited weights themselves, (B, H', T, S); dense. Options as for :func:`attention`.

    value_heads: G', which decides with which key head each map is paired (``ops.heads.Heads``);
    by default as many as keys and output heads allow, which is wrong for DIFF with grouped keys.
    """
    heads = heads_after(list(edits), q.shape[1])
    values = value_heads or _value_heads(k.shape[1], heads)
    v = k.new_empty(k.shape[0], values, k.shape[2], 0)
    call = make_call(q, k, v, edits, **options)  # type: ignore[arg-type]
    with torch.autocast(q.device.type, enabled=False):
        return reference.run(call, weights=True)


def _value_heads(keys: int, outputs: int) -> int:
    return next(g for g in range(min(keys, outputs), 0, -1) if keys % g == 0 and outputs % g == 0)


def make_call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    edits: Sequence[Edit] = (),
    *,
    x: Tensor | None = None,
    tensors: Sequence[Tensors] | None = None,
    window: int | None = None,
    scale: float | None = None,
    key_mask: Tensor | None = None,
    documents: Tensor | None = None,
    rows: Tensor | None = None,
    cols: Tensor | None = None,
    running: tuple[Tensor, Tensor] | None = None,
) -> Call:
    """Check the arguments of :func:`attention` and gather them with the edits' tensors."""
    _check(q, k, v, window, key_mask)
    T, S = q.shape[2], k.shape[2]
    if tensors is None:
        if x is not None and x.shape[:2] != (q.shape[0], S):
            raise SoftmapError(
                f"x must be (batch, keys, width) = ({q.shape[0]}, {S}, D), found {tuple(x.shape)}; "
                "with cached keys pass tensors= instead"
            )
        tensors = [tensors_of(e, x) for e in edits]
        if S != T:
            tensors = [t._replace(query={n: a[:, S - T :] for n, a in t.query.items()})
                       for t in tensors]  # fmt: skip
    starts = None if documents is None else starts_of(documents, q.shape[0], S)
    if starts is not None:
        _check_packed(edits, running)
    if cols is None:
        cols = torch.arange(S, device=q.device)[None]
        cols = cols if starts is None else cols - starts
    rows = cols[:, S - T :] if rows is None else rows
    heads = Heads(q.shape[1], k.shape[1], v.shape[1], heads_after(list(edits), q.shape[1]))
    return Call(
        q, k, v, list(edits), list(tensors), heads,
        q.shape[-1] ** -0.5 if scale is None else scale,
        window, rows, cols, None if key_mask is None else key_mask.bool(), running, starts,
    )  # fmt: skip


def _check_packed(edits: Sequence[Edit], running: tuple[Tensor, Tensor] | None) -> None:
    if running is not None:
        raise SoftmapError("running is the sum over one document: expected None with documents=")
    for edit in edits:
        if edit.halo:
            raise SoftmapError(
                f"{type(edit).__name__} reads {edit.halo} earlier rows, which may be another "
                "document's: expected edits without a halo with documents="
            )


def _check(q: Tensor, k: Tensor, v: Tensor, window: int | None, key_mask: Tensor | None) -> None:
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if not q.ndim == k.ndim == v.ndim == 4:
        raise SoftmapError(f"q, k, v must be (batch, heads, tokens, width), found {shapes}")
    if q.shape[0] != k.shape[0] or k.shape[0] != v.shape[0]:
        raise SoftmapError(f"q, k, v must have one batch size, found {shapes}")
    if k.shape[2] != v.shape[2] or q.shape[2] > k.shape[2] or not q.shape[2]:
        raise SoftmapError(f"expected as many keys as values and 1..keys queries, found {shapes}")
    if q.shape[3] != k.shape[3]:
        raise SoftmapError(f"queries and keys must have one width, found {shapes}")
    if not q.dtype == k.dtype == v.dtype or not q.is_floating_point():
        raise SoftmapError(
            f"q, k, v must have one floating dtype, found {q.dtype}, {k.dtype}, {v.dtype}"
        )
    if window is not None and window < 1:
        raise SoftmapError(f"window must be at least 1 key (the query's own), found {window}")
    if key_mask is not None and key_mask.shape != (k.shape[0], k.shape[2]):
        raise SoftmapError(
            f"key_mask must be (batch, keys) = ({k.shape[0]}, {k.shape[2]}), "
            f"found {tuple(key_mask.shape)}"
        )


def choose(call: Call, impl: str = "auto") -> str:
    """The backend that ``impl`` means here. A named one is taken or refused, never replaced."""
    if impl == "auto":
        return next(name for name, b in BACKENDS.items() if b.refuses(call) is None)
    if impl not in BACKENDS:
        known = ", ".join(["auto", *BACKENDS])
        raise SoftmapError(f"impl must be one of {known}, found {impl!r}{nearest(impl, BACKENDS)}")
    why = BACKENDS[impl].refuses(call)
    if why:
        raise SoftmapError(f"impl={impl!r} cannot run this: {why}; {choose(call)!r} can")
    return impl


def explain(call: Call) -> list[tuple[str, str | None]]:
    """Every backend in order of preference with the reason why it refuses the call, or None."""
    return [(name, backend.refuses(call)) for name, backend in BACKENDS.items()]


def apply_output(o: Tensor, call: Call) -> Tensor:
    """The output edits, in order."""
    for n, edit in chain(call.edits, "output"):
        t = call.tensors[n]
        o = edit.edit(o, band=None, t=bag(t._replace(key={})))  # type: ignore[arg-type]
    return o

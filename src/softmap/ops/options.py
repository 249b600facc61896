"""The options of [`softmap.attention`][], declared and described once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from torch import Tensor

from softmap.errors import SoftmapError, nearest
from softmap.maps import Tensors


class AttentionOptions(TypedDict, total=False):
    """The keywords of ``attention``, ``attention_map`` and ``make_call``; each may be left out
    or, except ``causal``, be None.

    Attributes:
        causal: if True, row i sees keys j <= i, and the last T keys are the queries' tokens. If
            False, it sees all keys: those of the queries' own tokens (S = T), or of another
            sequence of any length (cross-attention: S differs from T, or ``key_x`` is given). Edits
            that are not defined for this are refused ([`softmap.maps.Edit.defined_for`][]).
        x: (B, S, D) the layer's input, one row per key token, for edits with per-token tensors. The
            last T rows are the queries' (S = T without a cache). In cross-attention (B, T, D).
        key_x: (B, S, D) the input of the keys' tokens in cross-attention.
        tensors: the edits' tensors instead of ``x``, as ``edit(x, q, k)`` returns them for each
            edit, from a cache: query tensors (B, T, ...), key tensors (B, S, ...).
        window: the number of keys that a row sees, its own included; None for all up to its own.
            Without ``causal`` the window extends to both sides: |i - j| < window. Not for
            cross-attention.
        scale: the factor of the scores; by default 1/sqrt(d).
        key_mask: (B, S) boolean, or ones and zeros as integers: True at real keys, False at
            padding. A masked key between real ones keeps its index: a window counts it, and an edit
            that reads neighbours (a convolution, a halo) meets it. ``nn.Attention`` moves such keys
            away first.
        documents: (B, S) or (1, S) integers, the document of each key token, where several are
            packed in one sequence; the tokens of a document are neighbours. A row sees its own
            document alone, and positions count from its start. Not for cross-attention.
        rows, cols: (b, T) and (b, S) token positions where they differ from array indices; they
            increase over the real tokens of a document. ``rows`` are by default the last T of
            ``cols``, and in cross-attention 0 .. T - 1.
        running: the sum (B, G', d') and the number (B, 1) of the values before the first query,
            with which edits that need the mean of all values skip a pass over the cache.

    That documents are in one piece and that positions increase is checked only on a CPU: reading a
    GPU's numbers would make the CPU wait.
    """

    causal: bool
    x: Tensor | None
    key_x: Tensor | None
    tensors: Sequence[Tensors] | None
    window: int | None
    scale: float | None
    key_mask: Tensor | None
    documents: Tensor | None
    rows: Tensor | None
    cols: Tensor | None
    running: tuple[Tensor, Tensor] | None


# What torch's function of this kind takes and this one does not.
_NEVER = {
    "is_causal": "here it is named causal",
    "attn_mask": "padding is key_mask, packed sequences are documents",
    "dropout_p": "weights have no dropout",
    "enable_gqa": "fewer key heads than query heads are shared by themselves",
}


def check_names(options: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for a keyword that is not among [`AttentionOptions`][]."""
    known = AttentionOptions.__annotations__
    for name in options.keys() - known.keys():
        if name in _NEVER:
            raise SoftmapError(f"attention has no option {name!r}: {_NEVER[name]}")
        raise SoftmapError(
            f"attention has no option {name!r}{nearest(name, known)}; options: {', '.join(known)}"
        )

"""The protocol: what an edit of the attention map declares, and what it receives.

Causal softmax attention builds, for every head, a map of scores and a map of weights:

    S[h,i,j] = <q[h,i], k[h,j]> * scale
    S'       = scores edits, in order            (an Edit with stage = "scores")
    A        = softmax_j(S' + causal mask)       (or one edit with stage = "normaliser")
    A'       = weights edits, in order           (stage = "weights"), masked again
    o[h,i]   = sum_j A'[h,i,j] v[h,j]
    o'       = output edits, in order            (stage = "output": a gate, a head norm)

An edit reads row ``i`` (and, with a halo, a few rows above it), every key ``j <= i`` and all heads,
but never a later row. So one definition serves training, prefill and decoding, and the map
can be evaluated in bands of rows, with memory linear in the sequence length.

Bidirectional attention (of an encoder) is the same without the causal mask: row ``i`` sees every
key of its sequence. In cross-attention the keys belong to another sequence. ``Edit.defined_for``
says for which of these an edit is defined.

Shape suffixes in this package: B batch, T query tokens, S key tokens, H heads (maps), G key or
value heads, R rows of a band, C columns of a band, d head width, D model width, b = 1 or B.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from softmap.errors import SoftmapError

STAGES = ("scores", "normaliser", "weights", "output")
#: Kinds of attention, each wider than the one before: a row sees its own and earlier tokens; all
#: tokens of its sequence; the tokens of another sequence.
KINDS = ("causal", "self", "cross")


@dataclass(frozen=True)
class Band:
    """A band of the map: some query rows, and the keys that they may see.

    Attributes:
        rows: (b, R) positions of the query tokens, counted from the start of their document
            without padding. A padding token has the position of the real token before it, or 0.
        cols: (b, C) positions of the keys; an edit with ``pad`` sees that many more columns.
        gap: (1, 1, R, C) array index of the row minus that of the key: 0 at the row's own token,
            negative at later keys. It means nothing in cross-attention, where no key is the row's
            own.
        visible: (b, 1, R, C) True where row i may read key j, that is, where the key is within the
            row's window and document, no padding and, in causal attention, not later than the row.
        whole: whether every row sees every key (in causal attention, every key up to its own): no
            window, no padding, one document.
        causal: whether a row sees only its own and earlier tokens.
    """

    rows: Tensor
    cols: Tensor
    gap: Tensor
    visible: Tensor
    whole: bool = False
    causal: bool = True

    @property
    def beyond(self) -> Tensor:
        """The columns after the row's own, tokens and padding alike, boolean (1, 1, R, C).

        There are none in bidirectional attention, where later keys are read like earlier ones.
        """
        return self.gap < 0 if self.causal else torch.zeros_like(self.gap, dtype=torch.bool)

    @property
    def distance(self) -> Tensor:
        """The distance ``i - j`` in tokens, (b, 1, R, C), negative at keys after the row.

        It means nothing where the key belongs to another document or sequence.
        """
        return (self.rows[:, :, None] - self.cols[:, None, :])[:, None]

    @property
    def diagonal(self) -> Tensor:
        """Where the key is the row's own token, boolean (b, 1, R, C); not for cross-attention."""
        return (self.gap == 0) & self.visible  # by index: positions repeat across documents

    @property
    def own(self) -> Tensor:
        """The column of the row's own token, (1, 1, R, 1); not for cross-attention."""
        return self.gap[..., :1]

    @property
    def count(self) -> Tensor:
        """The number of keys that the row sees, (b, 1, R, 1); 0 for padding that sees none."""
        return self.visible.sum(-1, keepdim=True)

    def after(self, m: Tensor) -> Tensor:
        """Returns, at each key, the sum of ``m`` over the visible keys after it, (B, H, R, C).

        ``m`` may have a single row for all rows, (B, H, 1, C).
        """
        sums = self.zero(m).flip(-1).cumsum(-1).flip(-1)
        return nn.functional.pad(sums, (0, 1))[..., 1:]

    def zero(self, m: Tensor) -> Tensor:
        """Returns ``m`` (B, H, R, C) with zeros at every cell that is not visible, even at NaN."""
        return torch.where(self.visible, m, 0.0)  # not a product: 0 times NaN is NaN


class Rows:
    """The rows of a call, for output edits and closed forms, which get no map.

    Args:
        positions: (b, T) positions of the query tokens, as ``Band.rows``.
        count: returns [`count`][] when it is asked for.
        value: returns [`value`][] when it is asked for.
        lse: (B, H, T) the log-sum-exp of each row of S', 0 where no key is seen; for an output edit
            that ``needs_lse`` and in ``fold_softmax``, else None.
        mean: (B, H, T, d') the mean of the visible values; in ``fold_output`` of an edit that
            ``needs_mean``, else None.
    """

    def __init__(
        self,
        positions: Tensor,
        count: Callable[[], Tensor],
        value: Callable[[], Tensor],
        lse: Tensor | None = None,
        mean: Tensor | None = None,
    ) -> None:
        self.positions, self._count, self._value = positions, count, value
        self.lse, self.mean = lse, mean

    @property
    def count(self) -> Tensor:
        """The number of keys that each row sees, (b, T); 0 for padding that sees none."""
        return self._count()

    @property
    def value(self) -> Tensor:
        """The value of the row's own token for each map that enters, (B, H, T, d')."""
        return self._value()


class Edit(nn.Module):
    """An edit of the map. Subclass it, set ``stage``, write [`edit`][]; the rest is optional.

    All that a backend needs is declared here: chunked evaluation, decoding, the cache layout and
    the conformance tests follow from it. An edit owns its parameters but never reads them inside
    [`edit`][]: it returns tensors ([`layer_tensors`][], [`query_tensors`][], [`key_tensors`][]) and
    gets them back in ``t``, sliced to the band. So ``edit`` is a pure function, which any backend
    may recompute, and gradients reach the parameters through torch. Calling the edit,
    ``edit(x, q, k)``, returns all of these as [`Tensors`][].

    Attributes:
        stage: ``"scores"`` before the softmax, ``"normaliser"`` in its place (one in a chain),
            ``"weights"`` after it, ``"output"`` on the result.
        defined_for: the widest of [`KINDS`][] for which the edit is defined. ``"causal"``: its
            maths needs rows that see no later key (so does a halo). ``"self"``: it reads the row's
            own token or distances, which do not exist between two sequences. ``"cross"``: neither.
            Wider attention refuses the edit.
        maps: the number of maps that must enter, if its tensors are sized by it; None: any number.
        halo: the number of earlier query rows that [`edit`][] reads; rows above the first count as
            zeros.
        pad: the number of masked columns beyond the diagonal that it reads (``k // 2`` for a key
            convolution of width k). They arrive as zeros in every row, however many keys follow.
            Bidirectional attention adds none.
        keeps_zeros: whether a weights edit leaves masked cells exactly zero, so that they need not
            be masked again.
        needs_mean: whether [`fold_output`][] reads ``rows.mean``, the running mean of the values,
            which the cache then keeps.
        needs_lse: whether an output edit reads ``rows.lse``.
        floors: the lower bounds of parameters by name, which [`floored`][] applies.
        kernel: the name of a hand-written form of [`edit`][] and its adjoint in ``ops.native`` and
            ``ops.triton``, which takes the edit's tensors by their names. None: there is none.
            Subclasses do not inherit it, since their maths may differ.
        folds_output: whether [`fold_output`][] exists.
    """

    stage: str = "scores"
    defined_for: str = "cross"
    maps: int | None = None
    halo: int = 0
    pad: int = 0
    keeps_zeros: bool = False
    needs_mean: bool = False
    needs_lse: bool = False
    floors: Mapping[str, float] = {}
    kernel: str | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.kernel = cls.__dict__.get("kernel")

    def forward(
        self,
        x: Tensor | None = None,
        q: Tensor | None = None,
        k: Tensor | None = None,
        of: str = "both",
        layer: dict[str, Tensor] | None = None,
    ) -> Tensors:
        """Returns all tensors that the edit declares for the tokens of x, before any slicing.

        Parameters are read only here, and submodules are called, since hooks that move parameters
        to where they are needed (offloading, sharding) act on calls.

        Args:
            x: (B, S, D) the layer's normed input.
            q: (B, H, T, d) queries of the last T tokens as they enter the products; the query
                tensors are then those of these T.
            k: (B, G, S, d) keys. Each of the three may be None if the edit does not use it.
            of: ``"query"`` or ``"key"`` for the tensors of these alone (and the layer's): in
                cross-attention each has its own x.
            layer: the layer's tensors that an earlier call returned; None: they are computed.

        Raises ``ValueError`` if an input is missing, and for two tensors of the same name.
        """
        query, key = {}, {}
        if of != "key":
            query = self._made("query_tensors", x)
            if q is not None:
                query = {n: t[:, t.shape[1] - q.shape[2] :] for n, t in query.items()}
            query = _joined(self, query, self._made("tensors_of_q", q))
        if of != "query":
            want = "x=(B, T, D)" if of == "both" else "key_x=(B, S, D)"
            key = self._made("key_tensors", x, want)
            key = _joined(self, key, self._made("tensors_of_k", k))
        if layer is None:
            layer = outliving(self, self.layer_tensors())
        made = Tensors(layer, query, key)
        check_names(self, made)
        return made

    def _made(
        self, name: str, given: Tensor | None, want: str = "x=(B, T, D)"
    ) -> dict[str, Tensor]:
        """Returns the tensors of the method ``name``; none where it is not overridden."""
        if not _overrides(self, name):
            return {}
        if given is None:
            missing = f"{name[-1]}=(B, heads, T, d)" if "_of_" in name else want
            raise SoftmapError(
                f"{type(self).__name__} computes tensors from the layer's input: "
                f"expected {missing}, found None"
            )
        return getattr(self, name)(given)  # type: ignore[no-any-return]

    def floored(self, name: str) -> Tensor:
        """Returns the parameter ``name``, clamped from below to its entry in [`floors`][].

        Unlike in a plain clamp, a gradient that raises a parameter below its floor passes, so that
        it can return.
        """
        return at_least(getattr(self, name), self.floors[name])

    def heads_out(self, heads: int) -> int:
        """Returns how many maps leave if ``heads`` enter; raises ``ValueError`` if they cannot."""
        return heads

    def layer_tensors(self) -> dict[str, Tensor]:
        """Returns the tensors that all tokens share, e.g. one temperature per head."""
        return {}

    def query_tensors(self, x: Tensor) -> dict[str, Tensor]:
        """Returns tensors of the query tokens, (B, T, ...), from the layer's normed x.

        Each must depend on its own token alone: a decoding step passes the new tokens only, and
        padding and other documents lie among them. What reads several tokens (a cumulative sum, a
        convolution, a norm over T) belongs inside [`edit`][], over the rows and keys of the band.

        Args:
            x: (B, T, D) the layer's input, after its norm.
        """
        return {}

    def key_tensors(self, x: Tensor) -> dict[str, Tensor]:
        """Returns tensors of the key tokens, (B, S, ...), which the cache keeps beside K and V.

        Each must depend on its own token alone, as in [`query_tensors`][].
        """
        return {}

    def tensors_of_q(self, q: Tensor) -> dict[str, Tensor]:
        """Returns more query tensors (B, T, ...) from q (B, H, T, d), normed and rotated."""
        return {}

    def tensors_of_k(self, k: Tensor) -> dict[str, Tensor]:
        """Returns more key tensors (B, S, ...) from k (B, G, S, d), normed and rotated."""
        return {}

    def edit(self, m: Tensor, band: Any, t: dict[str, Tensor]) -> Tensor:
        """Returns the edited map (B, H', R, C), in plain differentiable torch.

        Scores arrive unmasked (use ``band.zero``), weights with exact zeros where masked. A
        normaliser gets scores that are -inf where masked, and returns weights; a row of -inf alone
        arrives as zeros, and its result is discarded.

        Args:
            m: the map (B, H, R, C), in float32 or wider whatever the model's dtype; for an output
                edit the output (B, H, T, d').
            band: a [`Band`][]; for an output edit the [`Rows`][].
            t: the layer tensors, and the query (B, R, ...) and key (B, C, ...) tensors cut to the
                band; for an output edit no key tensors.
        """
        raise NotImplementedError

    # Closed forms, which are optional and need no map.
    def fold_query(self, q: Tensor, rows: Rows, t: dict[str, Tensor]) -> Tensor:
        """Returns q (B, H, T, d) changed so that the plain scores are the edited ones."""
        raise NotImplementedError

    def fold_softmax(self, rows: Rows, t: dict[str, Tensor]) -> Tensor:
        """Returns the factors (B, H, T) of the softmax's rows that make it this normaliser."""
        raise NotImplementedError

    folds_output: bool = False

    def fold_output(self, o: Tensor, rows: Rows, t: dict[str, Tensor]) -> Tensor:
        """Returns what a weights edit makes of the output; called only if ``folds_output``.

        Args:
            o: (B, H, T, d') plain attention of each map that enters the edit.
        """
        raise NotImplementedError

    def start_as_identity(self) -> bool:
        """Set the parameters so that the edit changes nothing but all of them can still learn.

        An edit that subtracts pairs then returns the first map of each. It is called once, when a
        trained model gets the edit (``softmap.hf.graft``).

        Returns whether the edit is now the identity: False where no such parameters exist, as by
        default; they are then as close to it as possible.
        """
        return False


class Tensors(NamedTuple):
    """The tensors of one edit by name, before any slicing."""

    layer: dict[str, Tensor]
    query: dict[str, Tensor]
    key: dict[str, Tensor]


def check_names(edit: Edit, t: Tensors) -> None:
    """Raise ``ValueError`` where two tensors share a name: [`Edit.edit`][] would get only one."""
    seen: dict[str, str] = {}
    for kind, group in zip(t._fields, t, strict=True):
        for name in group:
            if name in seen:
                raise SoftmapError(
                    f"{type(edit).__name__} has a {seen[name]} tensor and a {kind} tensor named "
                    f"{name!r}: expected a name of its own for each"
                )
            seen[name] = kind


def outliving(module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies, where a hook may free the module's parameters as soon as its forward is over
    (FSDP2 does); else the tensors themselves."""
    return {n: t.clone() for n, t in tensors.items()} if module._forward_hooks else tensors


class _AtLeast(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(p: Tensor, floor: float) -> Tensor:
        return p.clamp(min=floor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.floor = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (p,) = ctx.saved_tensors
        # A step goes against the gradient: a negative one leads upwards.
        return torch.where((p >= ctx.floor) | (grad < 0), grad, torch.zeros_like(grad)), None


def at_least(p: Tensor, floor: float) -> Tensor:
    """Returns max(p, floor) elementwise; below the floor only a gradient that raises p passes.

    So an optimiser never pushes a parameter further below its floor, and can bring it back.
    """
    if not torch.is_grad_enabled():  # a function with a gradient of its own costs ten times as much
        return p.clamp(min=floor)
    return _AtLeast.apply(p, floor)  # type: ignore[no-any-return]


def needs_input(edit: Edit) -> bool:
    """Whether the edit computes per-token tensors from x."""
    return _overrides(edit, "query_tensors") or _overrides(edit, "key_tensors")


def keeps_keys(edit: Edit) -> bool:
    """Whether the edit has tensors of keys, which a cache keeps."""
    return _overrides(edit, "key_tensors") or _overrides(edit, "tensors_of_k")


def _overrides(edit: Edit, name: str) -> bool:
    return getattr(type(edit), name) is not getattr(Edit, name)


def _joined(edit: Edit, one: dict[str, Tensor], two: dict[str, Tensor]) -> dict[str, Tensor]:
    for name in one.keys() & two.keys():
        raise SoftmapError(
            f"{type(edit).__name__} has two tensors named {name!r}: expected a name of its own for "
            "each"
        )
    return one | two


def check_one_normaliser(edits: Iterable[Edit]) -> None:
    """Raise ``ValueError`` for two normalisers, which would both replace the softmax."""
    names = [type(e).__name__ for _, e in chain(edits, "normaliser")]
    if len(names) > 1:
        raise SoftmapError(
            f"{names[0]} and {names[1]} both stand in place of the softmax: expected one normaliser"
        )


def check_declared(edit: Edit) -> None:
    """Raise ``ValueError`` for a declaration that has no effect in the edit's stage."""
    cls, stage = type(edit), edit.stage
    for name, known in (("stage", STAGES), ("defined_for", KINDS)):
        if (found := getattr(edit, name)) not in known:
            raise SoftmapError(
                f"{cls.__name__}.{name} must be one of {', '.join(known)}, found {found!r}"
            )
    for name, stages in _READ_IN.items():
        if stage not in stages and _declares(edit, name):
            raise SoftmapError(
                f"{cls.__name__} declares {name}, which is read of {' and '.join(stages)} edits "
                f"alone: found stage {stage!r}"
            )


# Declarations that have an effect in some stages only.
_READ_IN = {
    "key_tensors": ("scores", "normaliser", "weights"),
    "tensors_of_k": ("scores", "normaliser", "weights"),
    "pad": ("scores", "weights"),  # weights beyond the diagonal are zeros without it
    "heads_out": ("weights",),
    "fold_query": ("scores",),
    "fold_softmax": ("normaliser",),
    "folds_output": ("weights",),
    "needs_lse": ("output",),
}


def _declares(edit: Edit, name: str) -> bool:
    default = getattr(Edit, name)
    if callable(default):
        return getattr(type(edit), name) is not default
    return bool(getattr(edit, name) != default)


def check_defined(edits: Iterable[Any], kind: str) -> None:
    """Raise ``ValueError`` for an edit that is not defined for this one of [`KINDS`][]."""
    for edit in edits:
        widest = "causal" if edit.halo else edit.defined_for
        if KINDS.index(widest) < KINDS.index(kind):
            why = f" (it reads {edit.halo} earlier rows)" if edit.halo else ""
            attention = "causal attention" if widest == "causal" else "self-attention"
            found = "causal=False" if kind == "self" else "keys of another sequence"
            raise SoftmapError(
                f"{type(edit).__name__} is defined for {attention} alone{why}: "
                f"expected that, found {found}"
            )


def chain(edits: Iterable[Any], stage: str) -> list[tuple[int, Edit]]:
    """Returns the edits of one stage, each with its index in the list, in order."""
    return [(n, e) for n, e in enumerate(edits) if e.stage == stage]


def heads_after(edits: Iterable[Any], heads: int) -> int:
    """Returns the number of maps after all weights edits, from ``heads`` at the softmax."""
    for _, edit in chain(edits, "weights"):
        heads = edit.heads_out(heads)
    return heads


def make_band(
    rows: Tensor,
    cols: Tensor,
    row_index: Tensor,
    col_index: Tensor,
    window: int | None,
    valid: Tensor | None,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    *,
    causal: bool = True,
) -> Band:
    """Returns the band of these rows and columns.

    The mask is made of array indices ([`near`][]), edits read positions; the two differ where the
    batch is padded or packed.

    Args:
        rows, cols: token positions, (b, R) and (b, C).
        row_index, col_index: array indices, (R,) and (C,).
        window: the number of keys that a row sees; None for all.
        valid: (B, C), True at real keys; None without padding.
        starts: (b, R) the index of the first token of each row's document.
        ends: (b, R) the index after the last token; a causal band does not need it.
        causal: whether rows see no later keys.
    """
    gap = (row_index[:, None] - col_index[None, :])[None, None]
    visible = near(gap, window, causal)
    if valid is not None:
        visible = visible & valid[:, None, None, :]
    if starts is not None:
        visible = visible & (col_index >= starts[:, None, :, None])
    if ends is not None:
        visible = visible & (col_index < ends[:, None, :, None])
    whole = window is None and valid is None and starts is None
    return Band(rows, cols, gap, visible, whole, causal)


def near(gap: Tensor, window: int | None, causal: bool) -> Tensor:
    """Returns which keys a row may see, by the difference of their array indices.

    They are the ``window`` keys up to the row's own, or without ``causal`` fewer than ``window``
    keys to either side; all of them if ``window`` is None.
    """
    if causal:
        return gap >= 0 if window is None else (gap >= 0) & (gap < window)
    return torch.ones_like(gap, dtype=torch.bool) if window is None else gap.abs() < window


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate the ``backward`` of an autograd Function that cannot be differentiated twice.

    Torch's ``once_differentiable`` can give wrong second derivatives silently; this raises
    ``ValueError`` as soon as a second derivative would be recorded.
    """

    @wraps(backward)
    def once(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled() and any(g is not None for g in grads):
            raise SoftmapError(
                "this form of attention has no second derivatives (create_graph=True): "
                "softmap.attention, impl='reference' and Edit.edit have"
            )
        return backward(ctx, *grads)

    return once


def compute_dtype(t: Tensor) -> torch.dtype:
    """Returns the dtype that maps are edited in: float32 under half precision, else that of t."""
    return torch.float32 if t.dtype in (torch.float16, torch.bfloat16) else t.dtype

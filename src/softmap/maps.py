"""The protocol: what an edit of the attention map declares, and what it is given.

Causal softmax attention builds, for every head, a map of scores and a map of weights:

    S[h,i,j] = <q[h,i], k[h,j]> * scale
    S'       = scores edits, in order            (an Edit with stage = "scores")
    A        = softmax_j(S' + causal mask)       (or one edit with stage = "normaliser")
    A'       = weights edits, in order           (stage = "weights"), masked again
    o[h,i]   = sum_j A'[h,i,j] v[h,j]
    o'       = output edits, in order            (stage = "output": a gate, a head norm)

An edit reads row ``i`` (and, with a halo, a few rows above it), every key ``j <= i`` and ALL heads;
it never reads a later row. So one definition serves training, prefill and decoding, and the map
can be evaluated in bands of rows, with memory linear in the sequence length.

Bidirectional attention (of an encoder) is the same without the causal mask: row ``i`` sees every
key of its sequence. In cross-attention the keys are another sequence's. ``Edit.defined_for`` says
how far the maths of an edit goes.

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
    """Where a band of the map lies: some query rows, the keys they may see, nothing later.

    Attributes:
        rows: (b, R) positions of the query tokens, padding not counted, from the start of their
            document. A padding token has that of the real token before it, and 0 where there is
            none.
        cols: (b, C) positions of the keys; an edit with ``pad`` sees that many columns more.
        gap: (1, 1, R, C) places in the array from the key to the row: 0 at the row's own token,
            negative at later keys. Of no meaning in cross-attention, where no key is the row's own.
        visible: (b, 1, R, C) True where row i may read key j: not later than the row where the
            attention is causal, in its window and document, not padding.
        whole: every row sees every key, in causal attention every key up to its own (no window, no
            padding, one document).
        causal: whether a row sees its own and earlier tokens alone.
    """

    rows: Tensor
    cols: Tensor
    gap: Tensor
    visible: Tensor
    whole: bool = False
    causal: bool = True

    @property
    def beyond(self) -> Tensor:
        """(1, 1, R, C) True at columns after the row's own, whether tokens or padding; nowhere in
        bidirectional attention, where later keys are read like earlier ones."""
        return self.gap < 0 if self.causal else torch.zeros_like(self.gap, dtype=torch.bool)

    @property
    def distance(self) -> Tensor:
        """(b, 1, R, C) ``i - j`` in tokens, negative at keys after the row; of no meaning where
        the key is another document's or another sequence's."""
        return (self.rows[:, :, None] - self.cols[:, None, :])[:, None]

    @property
    def diagonal(self) -> Tensor:
        """(b, 1, R, C) True where the key is the row's own token; not for cross-attention."""
        return (self.gap == 0) & self.visible  # by place: positions repeat across documents

    @property
    def own(self) -> Tensor:
        """(1, 1, R, 1) the column of the row's own token; not for cross-attention."""
        return self.gap[..., :1]

    @property
    def count(self) -> Tensor:
        """(b, 1, R, 1) how many keys the row sees; 0 for a row of padding that sees none."""
        return self.visible.sum(-1, keepdim=True)

    def after(self, m: Tensor) -> Tensor:
        """(B, H, R, C) at each key the sum of ``m`` over the visible keys after it, up to the row's
        own. ``m`` may have one row for all."""
        sums = self.zero(m).flip(-1).cumsum(-1).flip(-1)
        return nn.functional.pad(sums, (0, 1))[..., 1:]

    def zero(self, m: Tensor) -> Tensor:
        """``m`` (B, H, R, C) with zeros wherever the row may not look, whatever stands there."""
        return torch.where(self.visible, m, 0.0)  # not a product: 0 times NaN is NaN


class Rows:
    """The rows of a call, for output edits and closed forms, which have no map to look at.

    Args:
        positions: (b, T) of the query tokens, as ``Band.rows``.
        lse: (B, H, T) the logarithm of each row's sum of exp(S'), for each map of scores, 0 where
            no key is seen: of an output edit that ``needs_lse`` and in ``fold_softmax``, else None.
        mean: (B, H, T, d') of the visible values: in ``fold_output`` of an edit that
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
        """count, value: what gives these where they are asked for."""
        self.positions, self._count, self._value = positions, count, value
        self.lse, self.mean = lse, mean

    @property
    def count(self) -> Tensor:
        """(b, T) how many keys each row sees; 0 for a row of padding that sees none."""
        return self._count()

    @property
    def value(self) -> Tensor:
        """(B, H, T, d') the value of the row's own token, for each map that enters."""
        return self._value()


class Edit(nn.Module):
    """One edit of the map. Subclass it, set ``stage``, write [`edit`][]; the rest is optional.

    Everything a backend needs is declared here: from it follow chunked evaluation, decoding, the
    cache layout and the conformance tests. An edit owns its parameters but never reads them
    inside [`edit`][]: it hands tensors out ([`layer_tensors`][], [`query_tensors`][],
    [`key_tensors`][]) and gets them back, sliced to the band, in ``t``. That keeps ``edit`` a
    pure function, which any backend may recompute, and gradients reach the parameters through
    torch. Calling the edit, ``edit(x, q, k)``, gives all of them as [`Tensors`][].

    Attributes:
        stage: ``"scores"`` before the softmax, ``"normaliser"`` in its place (one in a chain),
            ``"weights"`` after it, ``"output"`` on the result.
        defined_for: the widest of [`KINDS`][] in which the edit means something. ``"causal"``: its
            maths needs rows that see no later key (so does a halo). ``"self"``: it reads the row's
            own token or distances, which a row and the keys of another sequence do not have.
            ``"cross"``: neither. Wider attention refuses it.
        maps: how many maps must enter the edit, where its tensors are sized by them; None: any
            number.
        halo: earlier query rows that [`edit`][] reads; it must treat rows above the first as zeros.
        pad: masked columns beyond the diagonal that it reads through (a key convolution of width k:
            ``k // 2``). They arrive as zeros, on every row, however many keys really follow. In
            bidirectional attention none are added: a row ends where its keys end, at both sides.
        keeps_zeros: a weights edit that leaves masked cells exactly zero by itself says so, and is
            spared a second masking.
        needs_mean: [`fold_output`][] reads ``rows.mean``, the running mean of the values (the cache
            then keeps it).
        needs_lse: an output edit reads ``rows.lse``.
        floors: the least values of parameters, by name: [`floored`][] reads them.
        kernel: name of a hand-written form of [`edit`][] and its adjoint, known to ``ops.native``
            and ``ops.triton``; it takes the edit's own tensors by their names. None: torch alone
            runs it. A subclass does not inherit it: its maths may be another.
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
    ) -> Tensors:
        """All tensors that the edit declares for the tokens of x (B, S, D), before any slicing.

        Args:
            q: (B, H, T, d) of the last T of them, as it enters the products; the query tensors are
                then those of these T.
            k: (B, G, S, d). Each may be None where the edit makes nothing of it.
            of: ``"query"`` or ``"key"`` for the tensors of these alone, beside the layer's: in
                cross-attention each has an x of its own.

        Parameters are read in here and nowhere else, and submodules are called: hooks which bring
        parameters to where they are needed (offloading, sharding) see only what is called.
        Raises ``ValueError`` where x, q or k is missing, and for two tensors of one name.
        """
        layer, query, key = self.layer_tensors(), {}, {}
        if of != "key":
            query = self._made("query_tensors", x)
            if q is not None:
                query = {n: t[:, t.shape[1] - q.shape[2] :] for n, t in query.items()}
            query = _joined(self, query, self._made("tensors_of_q", q))
        if of != "query":
            want = "x=(B, T, D)" if of == "both" else "key_x=(B, S, D)"
            key = self._made("key_tensors", x, want)
            key = _joined(self, key, self._made("tensors_of_k", k))
        made = Tensors(layer, query, key)
        check_names(self, made)
        return made._replace(layer=outliving(self, layer))

    def _made(
        self, name: str, given: Tensor | None, want: str = "x=(B, T, D)"
    ) -> dict[str, Tensor]:
        """What the method ``name`` makes of x, q or k; nothing where it is not overridden."""
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
        """The parameter ``name``, at least as large as [`floors`][] says.

        max(p, floor), but the gradient that would bring p back above its floor is let through: a
        plain clamp would hold a parameter below it for ever.
        """
        return at_least(getattr(self, name), self.floors[name])

    def heads_out(self, heads: int) -> int:
        """Maps that leave the edit when ``heads`` enter it. Raises ``ValueError`` if it cannot."""
        return heads

    def layer_tensors(self) -> dict[str, Tensor]:
        """Tensors that are the same for every token, e.g. one temperature per head."""
        return {}

    def query_tensors(self, x: Tensor) -> dict[str, Tensor]:
        """Tensors of the query tokens, (B, T, ...), from the layer's normed input x (B, T, D).

        Each token's is a function of that token alone: a decoding step hands over x of the new
        tokens only, and padding and packed documents stand beside the others. What reads several
        tokens (a cumulative sum, a convolution, a norm over T) belongs inside [`edit`][], over
        the rows and keys of the band.
        """
        return {}

    def key_tensors(self, x: Tensor) -> dict[str, Tensor]:
        """Tensors of the key tokens, (B, S, ...); the cache keeps exactly these beside K and V.

        Each a function of its token alone, as [`query_tensors`][]: the cache keeps it for ever.
        """
        return {}

    def tensors_of_q(self, q: Tensor) -> dict[str, Tensor]:
        """More query tensors, (B, T, ...), from q (B, H, T, d) as it enters the products."""
        return {}

    def tensors_of_k(self, k: Tensor) -> dict[str, Tensor]:
        """More key tensors, (B, S, ...), from k (B, G, S, d) as it enters the products."""
        return {}

    def edit(self, m: Tensor, band: Any, t: dict[str, Tensor]) -> Tensor:
        """The edit itself: ``m`` (B, H, R, C) in, (B, H', R, C) out, plain differentiable torch.

        Scores arrive unmasked (use ``band.zero``), weights arrive with exact zeros where masked. A
        normaliser gets scores that are -inf where masked, and returns weights; a row of -inf alone
        arrives as zeros, and what is returned for it does not count.
        ``band`` is a [`Band`][]. An output edit gets ``m`` = (B, H, T, d), [`Rows`][] for the
        band, and only query and layer tensors.
        ``t`` holds the layer tensors, and the query and key tensors cut to the band: (B, R, ...)
        and (B, C, ...). Maps are float32 or wider whatever the model's dtype.
        """
        raise NotImplementedError

    # Closed forms, optional: "I need no map".
    def fold_query(self, q: Tensor, rows: Rows, t: dict[str, Tensor]) -> Tensor:
        """Scores edit as a change of q (B, H, T, d) alone; only called where it is overridden."""
        raise NotImplementedError

    def fold_softmax(self, rows: Rows, t: dict[str, Tensor]) -> Tensor:
        """Normaliser as the softmax times one number a row and map, (B, H, T), of ``rows.lse``;
        only called where it is overridden."""
        raise NotImplementedError

    folds_output: bool = False

    def fold_output(self, o: Tensor, rows: Rows, t: dict[str, Tensor]) -> Tensor:
        """Weights edit as a change of the plain output; only called when ``folds_output``.

        Args:
            o: (B, H, T, d) plain attention of each map entering the edit.
        """
        raise NotImplementedError

    def start_as_identity(self) -> bool:
        """Set the parameters so that the edit changes nothing, and all of them can still learn.

        Of a pair of maps it then returns the first. Returns whether it does: False where no such
        parameters exist, as by default; then they are as near to it as the edit knows. Called
        once, when a trained model is given the edit (``softmap.hf.graft``).
        """
        return False


class Tensors(NamedTuple):
    """The tensors of one edit, before any slicing."""

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
    """max(p, floor) elementwise; below the floor, a gradient that leads upwards passes.

    So an optimiser never pushes a parameter further below its floor, and always brings it back.
    """
    if not torch.is_grad_enabled():  # a function with a gradient of its own costs ten times as much
        return p.clamp(min=floor)
    return _AtLeast.apply(p, floor)  # type: ignore[no-any-return]


def needs_input(edit: Edit) -> bool:
    """Whether the edit makes per-token tensors of x."""
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
    """Raise ``ValueError`` for two edits that would both stand in place of the softmax."""
    names = [type(e).__name__ for _, e in chain(edits, "normaliser")]
    if len(names) > 1:
        raise SoftmapError(
            f"{names[0]} and {names[1]} both stand in place of the softmax: expected one normaliser"
        )


def check_declared(edit: Edit) -> None:
    """Raise ``ValueError`` for a declaration that no backend would read in the edit's stage."""
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


# What is read of the edits of some stages only.
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
    """Raise ``ValueError`` for an edit that means nothing in this one of [`KINDS`][]."""
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
    """The edits of one stage with their places in the list, in order."""
    return [(n, e) for n, e in enumerate(edits) if e.stage == stage]


def heads_after(edits: Iterable[Any], heads: int) -> int:
    """Maps left after every weights edit, from ``heads`` at the softmax."""
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
    """A band from token positions (b, R), (b, C), places in the arrays (R,), (C,) and padding.

    The mask goes by place ([`near`][]), positions go to the edits; they differ where the batch is
    padded or packed. ``valid`` is (B, C), True at real keys; ``starts`` (b, R) the place of the
    first token of each row's document, ``ends`` (b, R) the place after its last one, which a causal
    band need not know.
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
    """Where a row may look by the places from the key to it: at the ``window`` keys up to its own,
    or without ``causal`` at less than ``window`` keys to either side; None: as far as there are."""
    if causal:
        return gap >= 0 if window is None else (gap >= 0) & (gap < window)
    return torch.ones_like(gap, dtype=torch.bool) if window is None else gap.abs() < window


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator for the ``backward`` of an autograd Function that has no derivative itself.

    Torch's ``once_differentiable`` gives wrong second derivatives silently where the gradients
    lead nowhere else; this raises ``ValueError`` as soon as they are to be recorded.
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
    """Maps are edited in float32 under half precision, else in the tensor's own dtype."""
    return torch.float32 if t.dtype in (torch.float16, torch.bfloat16) else t.dtype

"""Calls whose edits are compositions of low rank: matrix products make and take the maps, and the
template treats heads apart (``low_rank``), a block of query rows at a time.

Maps are B x r x rows x keys numbers: linear in the length for a block of fixed size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from softmap.errors import SoftmapError
from softmap.ops.triton import launch, low_rank
from softmap.ops.triton.common import bundle
from softmap.ops.triton.configs import config
from softmap.ops.triton.gradients import Backward, shaped
from softmap.ops.triton.low_rank_maps import Adjoint, Block, Form, Maps, whole
from softmap.ops.triton.plan import FIXED, Link, Spec, named
from softmap.ops.triton.sums import Sums

MOST_RANK = 2  # low_rank.sums_over_heads holds so many pairs of tiles
# Channels of all heads: up to here the template keeps its accumulators in registers. It needs less
# memory, and took a sixth more time on an H100 (16 heads of 64, Triton 3.6); at 32 heads of 128 it
# took four times as much.
MOST_CHANNELS = 1024
MOST_WIDTH = 128  # of a head: wider tiles of maps and vectors do not fit in shared memory
MAP_BYTES = 128 << 20  # of a block's maps of one side, where that leaves LEAST_ROWS
LEAST_ROWS = 1024  # of a block, in all sequences together: fewer leave a GPU idle

# The tensors of a composition as the tile code of its stage calls them (``low_rank``).
NAMES = {
    "scores": {"row": "q2", "row_gain": "qg", "col": "k2", "col_gain": "kg"},
    "weights": {"row": "q1", "row_gain": "qg", "col": "k1", "col_gain": "kg"},
}
LOW_RANK = ("q1", "q2", "k1", "k2")  # the tensors whose first axis but tokens is the rank
Factors = tuple[Tensor | None, Tensor | None]  # of the rows and of the keys


def takes(spec: Spec, flat: list[Tensor]) -> bool:
    """Whether the call is self-attention of a kind that ``suits``."""
    t = named(flat)
    names = [name for link in spec.scores + spec.weights for name, _ in link.tensors]
    shapes = [(name, x.shape[2:]) for name, x in zip(names, flat[len(FIXED) :], strict=True)]
    own_keys = t["q"].shape[2] == t["k"].shape[2] > 1
    return own_keys and suits(spec, shapes, max(t[n].shape[3] for n in "qv"))


def suits(spec: Spec, shapes: Iterable[tuple[str, Sequence[int]]], width: int) -> bool:
    """Whether all edits are compositions of low rank, at most one a stage, and the channels of all
    heads too many for the template's accumulators.

    Args:
        shapes: the edits' tensors: name, and shape without sequences and tokens.
        width: the channels of the widest head.
    """
    links = spec.scores + spec.weights
    if any(x.kernel != "compose" or "static" in dict(x.tensors) for x in links):
        return False
    low = all(shape[0] <= MOST_RANK for name, shape in shapes if name in LOW_RANK)
    single = max(len(spec.scores), len(spec.weights)) == 1
    wide = spec.heads[0] * width > MOST_CHANNELS and width <= MOST_WIDTH
    return low and single and wide


class LowRank:
    """A call: its blocks of rows, and each block as a call of the template.

    place: where the tensors of each stage's composition are in the flat list; tiles: these tensors
    as kernels take them, the tokens last and up to whole tiles.
    """

    def __init__(self, flat: list[Tensor], spec: Spec) -> None:
        self.flat, self.spec, self.t = flat, spec, named(flat)
        check_tiles(self.t)
        self.place: dict[str, dict[str, int]] = {}
        self.tiles: dict[str, dict[str, Tensor]] = {}
        n = len(FIXED)
        for stage in NAMES:
            for link in getattr(spec, stage):
                self.place[stage] = {name: n + i for i, (name, _) in enumerate(link.tensors)}
                self.tiles[stage] = {m: _tiled(flat[at]) for m, at in self.place[stage].items()}
                n += len(link.tensors)

    def blocks(self) -> list[Block]:
        """Returns the blocks: two where there are more rows than a tile has and, with a window,
        none longer than it where that leaves enough rows, since products compute all cells of a
        block. They begin at whole tiles.
        """
        B, _, T, _ = self.t["q"].shape
        window = self.spec.window or T
        size = B * min(T, 2 * window) * MOST_RANK * self.t["q"].element_size()
        n = min(max(MAP_BYTES // size, LEAST_ROWS // B), (T + 1) // 2, max(window, LEAST_ROWS // B))
        n = whole(max(1, n))
        return [
            Block(at, min(at + n, T), whole(max(0, at - window + 1), down=True))
            for at in range(0, T, n)
        ]

    def form(self, stage: str, which: str, x: Tensor, y: Tensor) -> Form | None:
        """Returns the form of x and y with a stage's factors q1 and k1, or q2 and k2; None where it
        has none.
        """
        place = self.place.get(stage, {})
        f, g = (self.flat[place[n]] if n in place else None for n in ("q" + which, "k" + which))
        return None if f is None and g is None else Form(x, y, f, g)

    def factors(self, stage: str, which: str, at: Block) -> Factors:
        """Returns a block's factors q1 and k1, or q2 and k2, as kernels take them."""
        q, k = self.tiles[stage].get("q" + which), self.tiles[stage].get("k" + which)
        return None if q is None else q[..., at.rows], None if k is None else k[..., at.keys]

    def part(self, at: Block, **maps: Maps | None) -> tuple[list[Tensor], Spec]:
        """Returns a block as a call of the template, with the maps of its stages."""
        t, rows, keys = self.t, at.rows, at.keys
        flat = [t["q"][:, :, rows], t["k"][:, :, keys], t["v"][:, :, keys]]
        if t["until"].numel():
            until = (t["until"][:, keys] - at.first).clamp(max=at.end - at.first)
            flat += [until, (t["first"][:, rows] - at.first).clamp(min=0)]
        else:
            flat += [t["until"], t["first"]]
        flat += [t["rows"][:, rows], t["cols"][:, keys], t["count"]]
        links: dict[str, tuple[Link, ...]] = {"scores": (), "weights": ()}
        for stage in self.place:
            tensors = self._of_block(stage, at, maps.get(stage))
            flat += [tensor for _, _, tensor in tensors]
            kinds = tuple((name, kind) for name, kind, _ in tensors)
            links[stage] = (Link(f"low_rank_{stage}", kinds),)
        return flat, Spec(self.spec.heads, self.spec.scale, links["scores"], links["weights"])

    def _of_block(self, stage: str, at: Block, maps: Maps | None) -> list[tuple[str, str, Tensor]]:
        """Returns (name, kind, tensor) of a stage's tile code."""
        found, tiles = [], self.tiles[stage]
        for name, own in NAMES[stage].items():
            if own in tiles:
                kind, cut = ("query", at.rows) if name.startswith("row") else ("key", at.keys)
                found.append((name, kind, tiles[own][..., cut]))
        for name, m in zip(("row_map", "col_map"), maps or (), strict=False):
            if m is not None:
                found.append((name, "map", m))
        return found


def check_tiles(t: dict[str, Tensor]) -> None:
    """Raise ``SoftmapError`` for sizes by which kernels would read beyond the maps' whole tiles."""
    width, size = max(launch.padded(t)), t["q"].element_size()
    for kernel in ("forward", "rows", "keys", "sums"):
        sizes = config(kernel, 0, width, size, low_rank=True)
        if whole(1) % sizes.rows or whole(1) % sizes.keys:
            raise SoftmapError(
                f"tiles of the Triton kernel {kernel} must divide {whole(1)}, "
                f"found {sizes.rows} x {sizes.keys}"
            )


class Found:
    """The gradients of the compositions' tensors, in float32, by their places in the flat list."""

    def __init__(self, call: LowRank) -> None:
        self.call = call
        self.all = {
            n: torch.zeros(t.shape, dtype=torch.float32, device=t.device)
            for n, t in enumerate(call.flat)
            if n >= len(FIXED)
        }

    def add_block(self, at: Block, part: list[Tensor], spec: Spec, sums: Sums) -> None:
        """Adds what the template has found for a block."""
        found, n = sums.gradients(), len(FIXED)
        for stage in self.call.place:
            for name, kind in getattr(spec, stage)[0].tensors:
                if n in found:
                    place = self.call.place[stage][NAMES[stage][name]]
                    cut = at.rows if kind == "query" else at.keys
                    self.all[place][:, cut] += shaped(found[n], part[n]).movedim(-1, 1)
                n += 1

    def add(self, stage: str, name: str, gradient: Tensor | None) -> None:
        """Adds the gradient of a factor, of each sequence."""
        if gradient is not None:
            total = self.all[self.call.place[stage][name]]
            total += shaped(gradient, total)


def forward(flat: list[Tensor], spec: Spec) -> tuple[Tensor, Tensor]:
    """Returns o (B, H, T, d') in v's dtype, and lse (B, H, T), as ``launch.forward`` does."""
    call = LowRank(flat, spec)
    q, k, v = (call.t[n] for n in "qkv")
    B, H, T, _ = q.shape
    o, lse = v.new_empty(B, H, T, v.shape[3]), q.new_empty(B, H, T, dtype=torch.float32)
    pre, post = call.form("scores", "1", q, k), call.form("weights", "2", o, v)
    added = None if post is None else Adjoint(post, rest=False)
    for at in call.blocks():
        part = call.part(at, scores=_maps(pre, at, spec.scale))
        o[:, :, at.rows], lse[:, :, at.rows] = launch.forward(*part)
        if added is not None:
            maps = added.form.room(at)
            _sum_heads(*part, lse[:, :, at.rows], call.factors("weights", "1", at), maps)
            added.add(maps, at)
    return o if added is None else added.x(o)[0], lse


def backward(
    grad: Tensor, o: Tensor, lse: Tensor, flat: list[Tensor], spec: Spec, needs: list[bool]
) -> list[Tensor]:
    """Returns the gradients of the flat tensors that ``needs`` names, in order."""
    call = LowRank(flat, spec)
    q, k, v = (call.t[n] for n in "qkv")
    grad, found = grad.to(v.dtype), Found(call)
    dq = torch.empty_like(q, memory_format=torch.contiguous_format)
    dk, dv = (torch.zeros(t.shape, dtype=torch.float32, device=t.device) for t in (k, v))
    pre, post = call.form("scores", "1", q, k), call.form("weights", "2", grad, v)
    of_scores = None if pre is None else Adjoint(pre)
    of_output = None if post is None else Adjoint(post, x=False)
    for at in call.blocks():
        maps = _maps(pre, at, spec.scale), _maps(post, at, 1.0)
        part, own = call.part(at, scores=maps[0], weights=maps[1])
        rows = at.rows
        block = Backward(grad[:, :, rows], o[:, :, rows], lse[:, :, rows], part, own)
        sums = Sums(part, own, _learnt(own))
        dq[:, :, rows] = block.rows(sums.stages)
        if of_scores is not None:
            room = of_scores.form.room(at)
            _sum_heads(part, own, block.lse, call.factors("scores", "2", at), room, block)
            of_scores.add(room, at)
        if of_output is not None:
            room = of_output.form.room(at)
            _sum_heads(part, own, block.lse, call.factors("weights", "1", at), room)
            of_output.add(room, at)
        for total, more in zip((dk, dv), block.keys(sums.stages), strict=True):
            total[:, :, at.keys] += more
        found.add_block(at, part, own, sums)
    if of_scores is not None:
        dq, f = of_scores.x(dq)
        dk, g = of_scores.y(dk)
        found.add("scores", "q1", f)
        found.add("scores", "k1", g)
    if of_output is not None:
        dv, g = of_output.y(dv)
        found.add("weights", "q2", of_output.f())
        found.add("weights", "k2", g)
    all_ = {0: dq, 1: dk, 2: dv} | found.all
    return [all_[n].to(flat[n].dtype) for n, need in enumerate(needs) if need]


def _maps(form: Form | None, at: Block, scale: float) -> Maps | None:
    return None if form is None else form.maps(at, scale)


def _tiled(t: Tensor) -> Tensor:
    """Returns (b, ..., tokens) of (b, tokens, ...), with zeros up to whole tiles."""
    t = t.movedim(1, -1)
    return pad(t, (0, whole(t.shape[-1]) - t.shape[-1])).contiguous()


def _learnt(spec: Spec) -> list[bool]:
    """Returns which tensors of a block the template returns gradients of: all but mask and maps."""
    kinds = [kind for link in spec.scores + spec.weights for _, kind in link.tensors]
    return [name in "qkv" for name in FIXED] + [kind != "map" for kind in kinds]


def _sum_heads(
    flat: list[Tensor],
    spec: Spec,
    lse: Tensor,
    factors: Factors,
    room: Maps,
    block: Backward | None = None,
) -> None:
    """Stores in ``room`` the maps of the weights or, with ``block``, of the gradient of the scores
    times the scale.
    """
    t = named(flat)
    scores, weights = launch.chains(spec, t, flat)
    B, _, T, _ = t["q"].shape
    S = t["k"].shape[2]
    none: tuple[Tensor | None, ...] = (None, None)
    do, delta = none if block is None else (block.grad, block.delta)
    rank = max(x.shape[1] for x in room if x is not None)
    sizes, constants = launch.constants_of("sums", spec, t)
    constants = {n: constants[n] for n in ("D", "DV", "HEADS", "DP", "VP", "PRECISION")}
    launch.launch_sized(
        low_rank.sums_over_heads, (-(-S // sizes.keys), -(-T // sizes.rows), B), sizes,
        *(bundle(t[n]) for n in "qkv"), bundle(do), bundle(lse), bundle(delta), launch.mask(t)[0],
        scores.args, weights.args, *(bundle(x, B) for x in factors), *(bundle(x) for x in room),
        T, S, spec.scale, **constants, **launch.edits(scores, "SCORE"),
        **launch.edits(weights, "WEIGHT", adjoints=True), GRADIENT=block is not None, RANK=rank,
    )  # fmt: skip

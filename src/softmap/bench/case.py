"""What is timed: one attention call of a variant, with inputs for which every edit matters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from softmap.fields import Checked, Range
from softmap.maps import Edit, Tensors
from softmap.nn import Attention
from softmap.ops import make_call
from softmap.ops.call import Call
from softmap.ops.output import run_whole
from softmap.variants import build, load

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
Dtype = Literal["float32", "bfloat16", "float16"]
Direction = Literal["forward", "backward", "both"]
Count = Annotated[int, Range(1)]
PLAIN = "transformer++"


@dataclass(frozen=True)
class Case(Checked):
    """The sizes of one attention call; heads are those of a plain Transformer of this width.

    Attributes:
        direction: ``forward`` (no gradients), ``backward`` (the backward pass alone), or ``both``.
        keys: with more keys than tokens the call is a decoding step.
    """

    variant: str = PLAIN
    batch: Count = 1
    heads: Count = 8
    tokens: Count = 512
    head_dim: Count = 64
    dtype: Dtype = "float32"
    window: Count | None = None
    direction: Direction = "both"
    kv_heads: Count | None = None
    device: str = "cpu"
    seed: int = 0
    keys: Count | None = None

    @property
    def gradients(self) -> bool:
        """Whether anything is differentiated."""
        return self.direction != "forward"

    @property
    def cells(self) -> int:
        """The number of cells of one head's maps, hidden ones included."""
        return self.batch * self.tokens * (self.keys or self.tokens)

    @property
    def title(self) -> str:
        """The case in words, without the variant."""
        window = "" if self.window is None else f" window {self.window}"
        groups = "" if self.kv_heads is None else f" kv {self.kv_heads}"
        keys = "" if self.keys is None else f" keys {self.keys}"
        words = {"both": "forward + backward"}.get(self.direction, self.direction)
        return (
            f"B{self.batch} H{self.heads}{groups} T{self.tokens}{keys} d{self.head_dim}{window} "
            f"{self.dtype} {words}"
        )

    def resized(self, **sizes: Any) -> Case:
        """Returns the same case with other sizes."""
        return dataclasses.replace(self, **sizes)

    def plain(self) -> Case:
        """Returns plain attention with the same heads, tokens and widths: what SDPA computes."""
        return self.resized(variant=PLAIN)


@dataclass(frozen=True)
class Problem:
    """A case with its tensors: the call, its differentiable inputs by name, and the output's
    gradient.

    ``leaves`` are q, k, v and every tensor that the edits declare, detached; ``learnt`` says which
    of them carry a gradient (fixed slopes do not); ``upstream`` has the output's shape.
    """

    case: Case
    call: Call
    learnt: tuple[bool, ...]

    @property
    def leaves(self) -> list[Tensor]:
        """The call's differentiable inputs."""
        return self.call.flatten()[1]

    @property
    def names(self) -> list[str]:
        """A name for each leaf: ``q``, ``Compose.query.q1``, ..."""
        found = ["q", "k", "v"]
        for n, (edit, group) in enumerate(zip(self.call.edits, self.call.tensors, strict=True)):
            for kind, tensors in zip(group._fields, group, strict=True):
                found += [f"{n}.{type(edit).__name__}.{kind}.{name}" for name in tensors]
        return found

    @cached_property
    def upstream(self) -> Tensor:
        """The gradient of the output, (B, H', T, d'), drawn from the case's seed."""
        call = self.call
        shape = (call.batch, call.heads.outputs, call.queries, call.v.shape[-1])
        return _normal(self.case, shape, 1).to(call.q.dtype)

    def at(self, leaves: Sequence[Tensor], dtype: torch.dtype | None = None) -> Call:
        """Returns the call with other tensors in place of the leaves."""
        return self.call.unflatten([t if dtype is None else t.to(dtype) for t in leaves])

    def last_rows(self, rows: int) -> Problem:
        """Returns the problem with the same keys and only the last ``rows`` queries."""
        call, start = self.call, self.call.queries - rows
        tensors = [
            t._replace(query={n: x[:, start:] for n, x in t.query.items()}) for t in call.tensors
        ]
        cut = make_call(
            call.q[:, :, start:], call.k, call.v, call.edits, tensors=tensors, window=call.window
        )
        return Problem(self.case, cut, self.learnt)


def run_backend(backend: ModuleType, call: Call) -> Tensor:
    """Returns a backend's output as ``softmap.attention`` computes it: output edits, no
    autocast.
    """
    with torch.autocast(call.q.device.type, enabled=False):
        return run_whole(backend, call)


@torch.no_grad()
def make_problem(case: Case) -> Problem:
    """Returns the problem of a case, with q, k, v ~ N(0, 1).

    Edits are moved off their initial state, which is often the identity. Raises ``SoftmapError``
    for an unknown variant or sizes that do not fit it.
    """
    heads, width, edits = _layout(case)
    device, dtype = torch.device(case.device), DTYPES[case.dtype]
    keys = case.keys or case.tokens
    d = case.head_dim
    shapes = ((heads.maps, case.tokens, d), (heads.keys, keys, d), (heads.values, keys, width))
    q, k, v = (_normal(case, (case.batch, *s), 2 + n).to(dtype) for n, s in enumerate(shapes))
    x = _normal(case, (case.batch, keys, case.heads * d), 5).to(dtype)
    with torch.enable_grad():
        tensors = [_cut(e.to(device, dtype)(x), case.tokens) for e in edits]
    call = make_call(q, k, v, edits, tensors=tensors, window=case.window)
    flat = call.flatten()[1]
    learnt = (True, True, True, *(t.requires_grad for t in flat[3:]))
    return Problem(case, call.unflatten([t.detach() for t in flat]), learnt)


def least_bytes(case: Case) -> int:
    """Returns the bytes that any candidate needs: inputs and parameters, twice with gradients.

    They are counted without allocating. Raises as [`make_problem`][] does.
    """
    one = torch.empty((), dtype=DTYPES[case.dtype]).element_size()
    tokens = case.batch * case.heads * case.head_dim * one * (case.keys or case.tokens)
    if tokens >= 2**48:  # beyond any machine; torch counts in 64 bits
        return 2 * tokens
    problem = make_problem(case.resized(device="meta"))
    own = [p for e in problem.call.edits for p in e.parameters()]
    kept = sum(t.numel() * one for t in (*problem.leaves, *own))
    return tokens + kept * (1 + case.gradients)


def _layout(case: Case) -> tuple[Any, int, list[Edit]]:
    """Returns the head counts, the width of a value, and the edits of the case's variant."""
    dim, d = case.heads * case.head_dim, case.head_dim
    with torch.device("meta"):  # for its head counts; its projections are not timed
        layer = Attention(dim, case.heads, case.variant, kv_heads=case.kv_heads, head_dim=d)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        parts = load(case.variant).parts
        with torch.device("meta" if case.device == "meta" else "cpu"):
            edits = build(parts, layer.heads.maps, dim, d, dim, 0, 2)
            for edit in edits:
                _perturb(edit)
    return layer.heads, layer.value_dim, edits


def _perturb(module: nn.Module) -> None:
    """Add noise to the parameters, small enough that scores stay of order one at any width."""
    for p in module.parameters():
        p.add_(torch.randn_like(p) * (0.2 if p.ndim < 2 else 0.5 / math.sqrt(max(p.shape))))


def _cut(t: Tensors, tokens: int) -> Tensors:
    return t._replace(query={n: x[:, -tokens:] for n, x in t.query.items()})


def _normal(case: Case, shape: tuple[int, ...], stream: int) -> Tensor:
    if case.device == "meta":
        return torch.empty(shape, device="meta")
    generator = torch.Generator(case.device).manual_seed(1000 * case.seed + stream)
    return torch.randn(shape, device=case.device, generator=generator)

"""Low precision against float64, measured by what a plain low-precision map loses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from softmap.maps import chain
from softmap.ops import chunked, reference
from softmap.ops.attention import apply_output
from softmap.ops.call import Call, bag, band_of, pad_keys
from softmap.ops.heads import combine, scores
from softmap.testing.layers import Note
from softmap.testing.subject import Subject, bands, call_of

# Times the plain map's own error: outputs, gradients.
OUTPUT, GRADIENT = 2.0, 3.0
DRAWS = 5
# Results of fewer numbers are pooled; a smaller truth is zero but for rounding (a bias of all
# scores of a row, which the softmax does not see) and has no relative error.
FEW, ZERO = 64, 1e-10


class Errors(NamedTuple):
    """Relative root mean squares of the errors of one draw: the bands', the plain map's."""

    ours: float
    plain: float


def low_precision(subject: Subject) -> Note:
    """In bfloat16 and float16 the bands' error against float64 is at most twice (gradients: three
    times) that of :func:`eager`, with every fresh buffer filled with NaN first.

    The float64 truth starts from the same rounded numbers. Compared are medians over five draws,
    and results of few numbers all together: one alone, such as a lambda's gradient, is at times
    right by luck. No result is asked to be finer than its own dtype's rounding.
    """
    notes = []
    for dtype in (torch.bfloat16, torch.float16):
        try:
            draws = [_errors(subject.with_seed(subject.seed + n), dtype) for n in range(DRAWS)]
        except (RuntimeError, NotImplementedError) as error:
            if "not implemented" not in str(error):
                raise
            notes.append(f"no {dtype} here: {str(error).splitlines()[0]}")
            continue
        for name in draws[0]:
            _judge(name, dtype, [e for draw in draws for e in draw.get(name, [])])
    return "; ".join(notes) or None


def _judge(name: str, dtype: torch.dtype, draws: list[Errors]) -> None:
    assert all(math.isfinite(d.ours) for d in draws), (
        f"{name} in {dtype}: not finite, with every fresh buffer filled with NaN first"
    )
    ours, plain = median(d.ours for d in draws), median(d.plain for d in draws)
    times = OUTPUT if name == "output" else GRADIENT
    allowed = times * max(plain, torch.finfo(dtype).eps / 2)
    assert ours <= allowed, (
        f"{name} in {dtype}: error {ours:.1e}, more than {times:g} x the plain map's {plain:.1e} "
        f"(root mean squares relative to float64; allowed {allowed:.1e})"
    )


def _errors(subject: Subject, dtype: torch.dtype) -> dict[str, list[Errors]]:
    """The errors of one draw, by what is judged together."""
    with torch.no_grad():
        call = call_of(subject.layer(dtype), subject.input(2, 33, dtype))
    truth = _run(reference.run, _cast(call, torch.float64))
    with bands(8), poisoned():
        ours = _run(chunked.run, call)
    plain = _run(eager, call)
    found: dict[str, list[Errors]] = {}
    for name, t in truth.items():
        group = name if t.numel() >= FEW else "gradients of few numbers"
        if t.norm() > ZERO:
            found.setdefault(group, []).append(Errors(_off(ours[name], t), _off(plain[name], t)))
    return found


def _off(got: Tensor, truth: Tensor) -> float:
    """Root mean square of the error over that of the truth."""
    return float((got.double() - truth).norm() / truth.norm())


def _cast(call: Call, dtype: torch.dtype) -> Call:
    return call.unflatten([t.to(dtype) for t in call.flatten()[1]])


def _run(backend: Callable[[Call], Tensor], call: Call) -> dict[str, Tensor]:
    """The output and the gradient of every tensor that enters the call."""
    _, flat = call.flatten()
    leaves = [t.detach().clone().requires_grad_() for t in flat]
    call = call.unflatten(leaves)
    out = apply_output(backend(call), call)
    upstream = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).cos().view_as(out)
    grads = torch.autograd.grad(out, leaves, upstream.to(out.dtype), allow_unused=True)
    result = {"output": out.detach()}
    for name, grad in zip(_names(call), grads, strict=True):
        if grad is not None:
            result[f"gradient of {name}"] = grad
    return result


def _names(call: Call) -> list[str]:
    """Of the tensors of ``call.flatten()``, in its order."""
    owned = [
        f"{type(edit).__name__}'s {kind} tensor {name!r} (edit {n})"
        for n, (edit, t) in enumerate(zip(call.edits, call.tensors, strict=True))
        for kind, group in zip(t._fields, t, strict=True)
        for name in group
    ]
    return ["q", "k", "v", *owned]


def eager(call: Call) -> Tensor:
    """The plain map: dense, one torch operation after another, all of it in the inputs' dtype.

    What a user would write who follows the formula of :mod:`softmap.maps` and nothing else: scores,
    softmax, edits and products stay in half precision, gradients come from autograd.
    """
    span = call.span(0, call.queries)._replace(first=0)
    extra = call.pad
    s = pad(scores(call.q, call.k, call.heads, call.scale), (0, extra))
    wide = band_of(call, span, extra)
    for n, edit in chain(call.edits, "scores"):
        s = edit.edit(s, wide, bag(pad_keys(call.tensors[n], extra))).to(call.q.dtype)
    band = band_of(call, span)
    m = s[..., : call.keys].masked_fill(~band.visible, -torch.inf).softmax(-1)
    for n, edit in chain(call.edits, "weights"):
        m = band.zero(edit.edit(m, band, bag(call.tensors[n]))).to(call.q.dtype)
    return combine(m, call.v, call.heads)


@contextmanager
def poisoned() -> Iterator[None]:
    """Fresh memory is NaN: a backend that reads what it has not written shows it."""
    on, warn = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    memory: Any = torch.utils.deterministic  # type: ignore[attr-defined]
    fill = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = True
    try:
        yield
    finally:
        memory.fill_uninitialized_memory = fill
        torch.use_deterministic_algorithms(on, warn_only=warn)

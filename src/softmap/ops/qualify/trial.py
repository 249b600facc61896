"""A backend's kernels tried on small calls of a kind, against the reference in float64."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from softmap.errors import reason
from softmap.maps import Tensors
from softmap.ops import precision, yardstick
from softmap.ops.call import Call
from softmap.ops.memory import is_out_of_memory
from softmap.ops.output import run_whole
from softmap.ops.qualify.kind import CallKind, has_code

DRAWS = 5
BATCH = 2
# Tensors of edits that their maths wants above zero.
POSITIVE = ("slopes", "p", "a", "c", "length", "tau")
Made = TypeVar("Made")
Sizes = dict[str, dict[str, tuple[float, float]]]


class Qualification(NamedTuple):
    """What came out of a trial.

    Attributes:
        why: what is wrong in one line, or None.
        tried: whether that is the kernels' fault; False where it says nothing of them (no memory
            was left).
        seconds: in all, and of the first run, which compiles.
        errors: by the call's size and the result's name, (ours, the plain map's).
    """

    why: str | None
    tried: bool = False
    seconds: float = 0.0
    first: float = 0.0
    errors: Sizes = {}  # noqa: RUF012  (nobody changes it)


def tried(backend: ModuleType, call: Call, kind: CallKind) -> Qualification:
    """Returns the verdict on ``backend.run`` for calls like ``call``, of the sizes that it
    names.

    It runs in a thread of its own, so that nothing that is active in the caller's affects it:
    disabled gradients, autocast, modes, hooks, transforms. It draws nothing from torch's own
    generators.
    """
    begin = time.perf_counter()
    found = in_thread(lambda: _tried(backend, call, kind), call.q.device)
    return found._replace(seconds=time.perf_counter() - begin)


def _tried(backend: ModuleType, call: Call, kind: CallKind) -> Qualification:
    call, first = yardstick.only(call, partial(has_code, backend)), 0.0
    errors: Sizes = {}
    every: list[precision.Draw] = []
    for queries, keys in backend.trials(kind):
        draws: list[precision.Draw] = []
        for seed in range(DRAWS):
            small = call_like(call, queries, keys, seed)
            try:
                known = yardstick.yardstick(small)
            except Exception as error:  # of the reference, which says nothing about the kernels
                return Qualification(
                    f"the reference raised {reason(error)}", False, 0, first, errors
                )
            begin = time.perf_counter()
            try:
                draws.append(yardstick.errors(partial(run_whole, backend), small, known))
            except Exception as error:
                return Qualification(reason(error), not is_out_of_memory(error), 0, first, errors)
            first = first or time.perf_counter() - begin
        size = f"{queries} queries of {keys} keys"
        if (why := _judged(precision.medians(draws), size, call, errors)) is not None:
            return Qualification(why, True, 0, first, errors)
        every += draws
    return Qualification(
        _judged(precision.alone(every), "all sizes", call, errors), True, 0, first, errors
    )


def _judged(found: precision.Draw, size: str, call: Call, errors: Sizes) -> str | None:
    """Returns what is wrong at a size, or None, and notes its errors."""
    errors[size] = {name: (e.ours, e.plain) for name, e in found.items()}
    why = precision.fault(found, call.q.dtype)
    return None if why is None else f"{why}, {size}"


def in_thread(work: Callable[[], Made], device: torch.device) -> Made:
    """Returns or raises what ``work`` does, in a fresh thread. Ctrl-C abandons it."""
    done: list[Made] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
                done.append(work())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return done[0]


def call_like(call: Call, queries: int, keys: int, seed: int) -> Call:
    """Returns a call with the same edits, heads, widths, dtype, layout and masks on random
    numbers.
    """
    device = call.q.device
    generator = torch.Generator().manual_seed(seed)

    def draw(shape: tuple[int, ...], like: Tensor, name: str = "", own: int = 0) -> Tensor:
        if not like.is_floating_point():
            return torch.zeros(shape, dtype=like.dtype, device=device)
        numbers = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
        return _moved(numbers, name, shape[own:], keys).to(device, like.dtype)

    tokens = {"q": queries, "query": queries, "k": keys, "v": keys, "key": keys}
    flat = []
    for (kind, name), t in zip(_named(call), call.flatten()[1], strict=True):
        if kind == "layer":
            flat.append(draw(tuple(t.shape), t, name))
        elif kind in ("query", "key"):
            shared = t.shape[0] == 1 and call.batch > 1
            size = (1 if shared else BATCH, tokens[kind], *t.shape[2:])
            flat.append(draw(size, t, name, 2))
        else:
            made = draw((BATCH, t.shape[1], tokens[kind], t.shape[3]), t)
            flat.append(_laid(made, t))
    part = replace(call.unflatten(flat), scale=call.q.shape[3] ** -0.5)
    return _placed(part, keys, queries)


def _named(call: Call) -> list[tuple[str, str]]:
    """Returns the kind and the name of each tensor of ``call.flatten()``."""
    own = [
        (kind, name)
        for t in call.tensors
        for kind, group in zip(Tensors._fields, t, strict=True)
        for name in group
    ]
    return [("q", ""), ("k", ""), ("v", ""), *own]


def _moved(numbers: Tensor, name: str, shape: tuple[int, ...], keys: int) -> Tensor:
    """Returns N(0, 1) as numbers that an edit may get, away from those that make it the
    identity.
    """
    name = name.rpartition(".")[2]
    if not name:  # q, k, v
        return numbers
    if name in POSITIVE:
        return torch.exp(0.3 * numbers) * (keys / 3 if name == "length" else 1)
    return numbers * (0.3 if len(shape) < 2 else 1 / math.sqrt(math.prod(shape[1:])))


def _laid(t: Tensor, like: Tensor) -> Tensor:
    """Returns the tensor with tokens before heads in memory, as a projection leaves them, if
    ``like`` is so.
    """
    inner = like.stride(1) < like.stride(2)
    return t.transpose(1, 2).contiguous().transpose(1, 2) if inner else t


def _placed(call: Call, keys: int, queries: int) -> Call:
    """Returns the call with masks and positions of the kinds that it had, for its new length.

    A sum of earlier values is left out: it has no gradient, so the reference, which reads these
    values from the map, could not be compared; no kernel reads it.
    """
    place = torch.arange(keys, device=call.q.device)[None]
    cols, valid, starts = place, call.valid, call.starts
    apart = call.rows.shape[0] > 1 or call.batch == 1  # each sequence has positions of its own
    if valid is not None:  # a fifth of the first sequence, at its left
        valid = torch.ones(BATCH, keys, dtype=torch.bool, device=place.device)
        valid[0, : keys // 5 + 1] = False
        cols = (valid.long().cumsum(1) - 1).clamp(min=0) if apart else place
    if starts is not None:
        begins = torch.tensor([[keys // 3], [keys // 2]], device=place.device)
        begins = begins if apart else begins[:1]
        starts = torch.where(place >= begins, begins, 0)
        cols = place - starts
    cols = (cols.expand(BATCH, -1) if apart else cols).to(call.cols.dtype)
    window = None if call.window is None else keys // 3 + 1
    return replace(
        call, rows=cols[:, keys - queries :].to(call.rows.dtype), cols=cols, valid=valid,
        starts=starts, running=None, window=window,
    )  # fmt: skip


def lost(device: torch.device) -> bool:
    """Whether the device no longer answers, as after an invalid memory access."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
        return not bool(torch.ones((), device=device).item())
    except RuntimeError:
        return True

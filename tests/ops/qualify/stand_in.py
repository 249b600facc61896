"""A backend whose kernels are the bands of ``chunked``, right or wrong on purpose.

``FAULT`` and ``CODE`` come from the environment, so that another process can have them too.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from softmap.ops import chunked
from softmap.ops.call import Call
from softmap.ops.qualify.kind import CallKind
from softmap.testing.subject import CheckSubject, call_of

seen: list[Call] = []  # every call that was run


class _Bent(torch.autograd.Function):
    """The identity, whose gradient is a tenth too large."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 1.1


def refuses(call: Call) -> str | None:
    return None


def made_of(kind: CallKind) -> dict[str, Any]:
    return {"code": os.environ.get("CODE", "1")}


def trials(kind: CallKind) -> list[tuple[int, int]]:
    return [(1, 11)] if kind.queries == "one" else [(11, 11)]


def run(call: Call) -> Tensor:
    seen.append(call)
    if log := os.environ.get("LOG"):
        with Path(log).open("a") as file:
            file.write(f"{os.getpid()}\n")
    fault = os.environ.get("FAULT")
    if fault == "raises":
        raise RuntimeError("out of shared memory\nand more lines")
    if fault == "dies":
        os._exit(9)
    if fault == "output":
        return chunked.run(call) * 1.1
    if fault == "unwritten":
        o = chunked.run(call)
        return o + torch.empty_like(o)
    if fault == "cut":
        return chunked.run(replace(call, k=call.k.detach()))
    if fault == "k":
        return chunked.run(replace(call, k=_Bent.apply(call.k)))
    if fault == "query tensor":
        first = call.tensors[0]
        name = next(iter(first.query))
        query = first.query | {name: _Bent.apply(first.query[name])}
        return chunked.run(replace(call, tensors=[first._replace(query=query), *call.tensors[1:]]))
    return chunked.run(call)


def a_call(variant: str = "dcmha", dtype: torch.dtype = torch.float32, **options: Any) -> Call:
    subject = CheckSubject(variant, heads=2)
    with torch.no_grad():
        return call_of(subject.layer(dtype), subject.input(1, 12, dtype), **options)

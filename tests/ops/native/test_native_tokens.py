"""The operator for the tensors of a decoding step's few tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from softmap.nn import Attention
from softmap.ops.native import build, tokens
from softmap.variants import Place
from softmap.variants.dcmha import Compose

DIM, HEADS = 24, 6


def made(**switches: Any) -> Compose:
    """An edit of random weights, large enough that each of them is seen."""
    edit = Compose(Place(HEADS, DIM, 4, 4, 0, 1), "scores", **switches)
    with torch.no_grad():
        for p in edit.parameters():
            p.normal_()
    return edit.double()


@pytest.fixture(autouse=True)
def ready() -> None:
    build.ready()


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (16, 1), (0, 1)], ids=str)
@pytest.mark.parametrize("rank", [1, 3])
@torch.no_grad()
def test_same_as_the_edit(shape: tuple[int, int], rank: int) -> None:
    edit, x = made(rank=rank), torch.randn(*shape, DIM).double()
    query, key = tokens.tensors(edit, x) or ({}, {})
    want = edit(x)
    assert (query.keys(), key.keys()) == (want.query.keys(), want.key.keys())
    for name, t in {**want.query, **want.key}.items():
        torch.testing.assert_close({**query, **key}[name], t, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@torch.no_grad()
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    edit, x = made().to(dtype), torch.randn(2, 1, DIM).to(dtype)
    got, eager, want = tokens.tensors(edit, x), edit(x), made()
    want.load_state_dict(edit.state_dict())
    truth = want(x.double())
    for ours, plain, exact in zip(got or (), eager[1:], truth[1:], strict=True):
        for name, t in exact.items():
            allowed = max((plain[name].double() - t).norm(), torch.finfo(dtype).eps * t.norm())
            assert (ours[name].double() - t).norm() <= allowed


def _hooked(edit: Compose) -> Compose:
    assert edit.query is not None
    edit.query.register_forward_hook(lambda *_: None)
    return edit


def _other_dtype(edit: Compose) -> Compose:
    assert edit.key is not None
    edit.key.float()
    return edit


@pytest.mark.parametrize(
    "change",
    [
        lambda e: made(gates=False),
        lambda e: made(low_rank=False),
        lambda e: made(query=False),
        _hooked,
        _other_dtype,
    ],
    ids=["gates", "low_rank", "query", "hook", "dtype"],
)
@torch.no_grad()
def test_other_edits_are_left_to_torch(change: Callable[[Compose], Compose]) -> None:
    x = torch.randn(1, 1, DIM).double()
    assert tokens.tensors(made(), x) is not None
    assert tokens.tensors(change(made()), x) is None


def test_calls_that_need_torch_are_left_to_it() -> None:
    edit, x = made(), torch.randn(1, 1, DIM).double()
    assert tokens.tensors(edit, x) is None  # gradients
    with torch.no_grad():
        assert tokens.tensors(edit, x.expand(1, tokens.MOST + 1, DIM)) is None
        with torch.autocast("cpu", torch.bfloat16):
            assert tokens.tensors(edit, x) is None

        def whether(t: Tensor) -> Tensor:
            return t.new_tensor(tokens.tensors(edit, t[None]) is None)

        assert torch.vmap(whether)(x.expand(2, 1, DIM)).all()


def test_operator_is_whole() -> None:
    edit, x = made(), torch.randn(2, 1, DIM).double()
    assert edit.query is not None
    weights = tuple(p.detach() for p in (edit.query.w1, edit.query.w2, edit.query.wg))
    torch.library.opcheck(torch.ops.softmap_native.token_factors, (x, *weights, 1e-6))


@torch.no_grad()
def test_decoding_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    run = tokens.tensors
    monkeypatch.setattr(tokens, "tensors", lambda *a: calls.append(run(*a)) or calls[-1])
    layer, x = Attention(DIM, HEADS, "dcmha").double(), torch.randn(2, 9, DIM).double()
    torch.nn.init.normal_(layer.o_proj.weight)  # type: ignore[arg-type]
    cache, want = layer.new_cache(), layer(x)
    got = [layer(x[:, :6], cache=cache), *(layer(x[:, n : n + 1], cache=cache) for n in (6, 7, 8))]
    torch.testing.assert_close(torch.cat(got, 1), want, rtol=1e-10, atol=1e-10)
    assert len(calls) == 6 and all(c is not None for c in calls)

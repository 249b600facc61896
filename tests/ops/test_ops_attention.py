"""``softmap.attention`` as a function: plain results, windows, choices, refusals."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

import softmap
from softmap.errors import SoftmapError
from softmap.ops import attention_map, choose, explain, make_call, native
from softmap.testing import bands
from softmap.variants import Place, build, load

softmap_attention = softmap.attention
# The backends that ``auto`` may take there.
ON_A_CPU = ("native", "folded", "chunked", "reference")


def edits(variant: str, heads: int = 4, dim: int = 16) -> list[softmap.Edit]:
    torch.manual_seed(0)
    made = build(load(variant).parts, heads, dim, dim // heads, dim, 0, 1)
    return [e.double() for e in made]


@pytest.fixture
def qkv() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    return tuple(torch.randn(2, 4, 7, 4, dtype=torch.float64) for _ in range(3))


@pytest.mark.parametrize("impl", ON_A_CPU)
def test_no_edits_is_plain_attention(qkv: tuple[torch.Tensor, ...], impl: str) -> None:
    got = softmap_attention(*qkv, impl=impl)
    torch.testing.assert_close(got, scaled_dot_product_attention(*qkv, is_causal=True))
    got = softmap_attention(*qkv, scale=0.3, impl=impl)
    torch.testing.assert_close(got, scaled_dot_product_attention(*qkv, is_causal=True, scale=0.3))


@pytest.mark.parametrize("impl", ON_A_CPU)
@pytest.mark.parametrize("window", [1, 3, 7, 20])
def test_window_is_exactly_that_many_keys(impl: str, window: int) -> None:
    """With equal scores a row's weights are 1 / keys seen; values of one-hot rows show them."""
    q = torch.zeros(1, 2, 9, 4, dtype=torch.float64)
    v = torch.eye(9, dtype=torch.float64).expand(1, 2, 9, 9)
    with bands(4):
        weights = softmap_attention(q, q, v, window=window, impl=impl)[0, 0]
    assert (weights > 0).sum(1).tolist() == [min(i + 1, window) for i in range(9)]
    for i, row in enumerate(weights):
        assert row.nonzero().flatten().tolist() == list(range(max(0, i - window + 1), i + 1))
        torch.testing.assert_close(row[i], torch.tensor(1 / min(i + 1, window)).double())


@pytest.mark.parametrize("impl", ON_A_CPU)
def test_more_keys_than_queries_are_the_past(qkv: tuple[torch.Tensor, ...], impl: str) -> None:
    q, k, v = qkv
    whole = softmap_attention(q, k, v, impl=impl)
    torch.testing.assert_close(softmap_attention(q[:, :, 4:], k, v, impl=impl), whole[:, :, 4:])


def test_edits_take_x_or_their_tensors(qkv: tuple[torch.Tensor, ...]) -> None:
    chain, x = edits("dcmha"), torch.randn(2, 7, 16, dtype=torch.float64)
    with_x = softmap_attention(*qkv, chain, x=x)
    tensors = [e(x) for e in chain]
    assert torch.equal(with_x, softmap_attention(*qkv, chain, tensors=tensors))
    q, k, v = qkv
    torch.testing.assert_close(softmap_attention(q[:, :, 5:], k, v, chain, x=x), with_x[:, :, 5:])


def test_map_times_values_is_attention(qkv: tuple[torch.Tensor, ...]) -> None:
    q, k, v = qkv
    chain = edits("talking-heads")
    m = attention_map(q, k, chain, window=3)
    torch.testing.assert_close(m @ v, softmap_attention(q, k, v, chain, window=3))


def test_auto_takes_the_first_that_does_not_refuse(qkv: tuple[torch.Tensor, ...]) -> None:
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    assert choose(make_call(*qkv)) == "folded"
    call = make_call(*qkv, edits("dcmha"), x=x)
    here = "chunked" if native.refuses(call) else "native"
    assert choose(call) == here
    assert choose(call, "reference") == "reference"
    reasons = dict(explain(call))
    assert reasons["chunked"] is None and "Compose" in str(reasons["folded"])
    with pytest.raises(SoftmapError, match=r"cannot run this: Compose.*can$"):
        choose(call, "folded")


def test_masks_of_ones_change_nothing(qkv: tuple[torch.Tensor, ...]) -> None:
    plain = softmap_attention(*qkv)
    torch.testing.assert_close(softmap_attention(*qkv, key_mask=torch.ones(2, 7).long()), plain)


def test_padding_rows_give_no_nan(qkv: tuple[torch.Tensor, ...]) -> None:
    """Undefined, but finite: a NaN would spread through the gradients of real rows."""
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, :3] = False
    for impl in ON_A_CPU:
        leaves = [t.clone().requires_grad_() for t in qkv]
        softmap_attention(*leaves, key_mask=mask, impl=impl)[:, :, 3:].sum().backward()
        assert all(torch.isfinite(t.grad).all() for t in leaves if t.grad is not None), impl


def test_stage_must_agree_with_the_list() -> None:
    from softmap.variants import Parts
    from softmap.variants.controls import Temperature

    with pytest.raises(SoftmapError, match="Temperature is listed under 'weights' but declares"):
        build(Parts(weights=[Temperature]), 4, 16, 4, 16, 0, 1)
    place = Place(heads=4, dim=16, head_dim=4, value_dim=4, layer=0, depth=1)
    assert Temperature(place).stage == "scores"


def test_half_precision_returns_half(qkv: tuple[torch.Tensor, ...]) -> None:
    half = [t.bfloat16() for t in qkv]
    for impl in ON_A_CPU:
        assert softmap_attention(*half, impl=impl).dtype is torch.bfloat16


@pytest.mark.parametrize("impl", ON_A_CPU)
@pytest.mark.parametrize("window", [None, 3])
def test_empty_batch(impl: str, window: int | None) -> None:
    q = torch.randn(0, 4, 7, 4, requires_grad=True)
    out = softmap_attention(q, q, q, window=window, impl=impl)
    out.sum().backward()
    assert out.shape == q.shape


@pytest.mark.parametrize("variant", ["diff", "gated"])
def test_only_an_output_edit_is_trained(qkv: tuple[torch.Tensor, ...], variant: str) -> None:
    made = edits(variant)
    for e in made[:-1]:
        e.requires_grad_(False)
    q, k, v = qkv
    v = v[:, : 2 if variant == "diff" else 4].repeat(1, 1, 1, 2 if variant == "diff" else 1)
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    grads = {}
    for impl in ON_A_CPU:
        out = softmap_attention(q, k, v, made, x=x, impl=impl)
        grads[impl] = torch.autograd.grad(out.square().sum(), list(made[-1].parameters()))
    torch.testing.assert_close(grads["chunked"], grads["reference"])


def test_backward_under_autocast_is_that_of_the_forward() -> None:
    torch.manual_seed(0)
    qkv = [torch.randn(2, 4, 40, 8, requires_grad=True) for _ in range(3)]
    out = softmap_attention(*qkv, impl="chunked").sin().sum()
    want = torch.autograd.grad(out, qkv, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        got = torch.autograd.grad(out, qkv)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_checkpointing_frees_the_inputs_of_chunked() -> None:
    held = []

    def layer(x: torch.Tensor) -> torch.Tensor:
        k = x * 2
        held.append(weakref.ref(k))
        return softmap_attention(x, k, x, impl="chunked")

    x = torch.randn(1, 2, 8, 4, requires_grad=True)
    out = checkpoint(layer, x, use_reentrant=False)
    assert held[0]() is None
    out.sum().backward()


class Given(softmap.Edit):
    """A map that is not made of the scores: learned, or the same for all."""

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.stage = "scores"
        self.w = torch.nn.Parameter(torch.ones(4)) if learned else None

    def layer_tensors(self) -> dict[str, torch.Tensor]:
        return {} if self.w is None else {"w": self.w}

    def edit(self, m: torch.Tensor, band: softmap.Band, t: dict[str, torch.Tensor]) -> torch.Tensor:
        flat = torch.zeros_like(m)
        return flat + band.distance * t["w"][:, None, None] if t else flat


@pytest.mark.parametrize("learned", [True, False])
def test_a_map_without_scores_has_gradients(qkv: tuple[torch.Tensor, ...], learned: bool) -> None:
    """The queries and keys have none, the values and the edit's own have, in bands as in one."""
    found = []
    for impl in ("reference", "chunked"):
        edit, leaves = Given(learned).double(), [t.clone().requires_grad_() for t in qkv]
        with bands(3):
            softmap_attention(*leaves, [edit], impl=impl).cos().sum().backward()
        grads = [t.grad for t in (*leaves, *edit.parameters())]
        found.append([torch.zeros(()).double() if g is None else g for g in grads])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a.expand_as(b), b.expand_as(a.expand_as(b)))
    assert not found[1][0].any() and found[1][2].any()

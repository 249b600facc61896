"""``causal=False``: rows that see later keys too, and keys of another sequence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import softmap
from softmap.errors import SoftmapError
from softmap.ops import attention_map, choose, explain, make_call, tiles, triton
from softmap.ops.call import band_of
from softmap.ops.documents import ends_of
from softmap.ops.masks import Masks
from softmap.testing import bands
from softmap.testing.subject import perturb, seeded

ON_A_CPU = ("native", "folded", "chunked", "reference")


def drawn(*shapes: tuple[int, ...]) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(s, dtype=torch.float64, generator=draw) for s in shapes]


def qkv(T: int, S: int, H: int = 4, d: int = 4) -> list[Tensor]:
    return drawn((2, H, T, d), (2, H, S, d), (2, H, S, d))


def made(variant: str) -> Any:
    with seeded(0):
        return perturb(softmap.edits(variant, heads=4, head_dim=4)).double()


def results(impl: str, leaves: list[Tensor], edits: Any, **options: Any) -> list[Tensor]:
    """The output and the gradient of every leaf and parameter."""
    own = [t.clone().requires_grad_() for t in leaves]
    extra = dict(zip(("x", "key_x"), own[3:], strict=False))
    out = softmap.attention(*own[:3], edits, impl=impl, causal=False, **extra, **options)
    wanted = [*own, *edits.parameters()]
    grads = torch.autograd.grad(out.sin().sum(), wanted, allow_unused=True)
    return [out.detach(), *(torch.zeros(()) if g is None else g for g in grads)]


@pytest.mark.parametrize("impl", ON_A_CPU)
@pytest.mark.parametrize(("T", "S"), [(7, 7), (7, 3), (3, 7), (1, 1)])
def test_no_edits_is_plain_attention(impl: str, T: int, S: int) -> None:
    q, k, v = qkv(T, S)
    got = softmap.attention(q, k, v, causal=False, impl=impl)
    torch.testing.assert_close(got, F.scaled_dot_product_attention(q, k, v))
    mask = torch.ones(2, S, dtype=torch.bool)
    mask[0, : S // 2] = False
    got = softmap.attention(q, k, v, causal=False, impl=impl, key_mask=mask)
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("impl", ON_A_CPU)
@pytest.mark.parametrize("window", [1, 3, 20])
def test_a_window_reaches_to_both_sides(impl: str, window: int) -> None:
    """With equal scores a row's weights are 1 / keys seen; values of one-hot rows show them."""
    q = torch.zeros(1, 2, 9, 4, dtype=torch.float64)
    v = torch.eye(9, dtype=torch.float64).expand(1, 2, 9, 9)
    with bands(4):
        weights = softmap.attention(q, q, v, causal=False, window=window, impl=impl)[0, 0]
    at = torch.arange(9)
    want = ((at[:, None] - at).abs() < window).double()
    torch.testing.assert_close(weights, want / want.sum(1, keepdim=True))


def test_ends_of_documents() -> None:
    starts = torch.tensor([[0, 0, 2, 3, 3, 3], [0, 0, 0, 0, 0, 0]])
    assert ends_of(starts).tolist() == [[2, 2, 3, 6, 6, 6], [6] * 6]


@pytest.mark.parametrize("impl", ON_A_CPU)
def test_documents_see_themselves_alone(impl: str) -> None:
    q, k, v = qkv(7, 7)
    documents = torch.tensor([[4, 4, 1, 1, 1, 2, 2]])
    with bands(2):
        got = softmap.attention(q, k, v, causal=False, documents=documents, impl=impl)
    parts = zip(*(t.split([2, 3, 2], 2) for t in (q, k, v)), strict=True)
    want = torch.cat([F.scaled_dot_product_attention(*part) for part in parts], 2)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("keys", [7, 3])
def test_dape_is_the_papers_convolution_of_the_whole_map(kernel: int, keys: int) -> None:
    """S' = S + B + conv(leaky_relu(conv([S; B]))), each convolution zero-padded at both ends."""
    T = 7
    bias = "kerple" if keys == T else "none"  # keys of another sequence have no distance
    q, k, v = qkv(T, keys)
    edits = made(f"dape(bias={bias},kernel={kernel},hidden=6)")
    s = q @ k.transpose(2, 3) / 2
    both, added = s, 0.0
    if bias == "kerple":
        p, a = edits[0].bias.p[:, None, None], edits[0].bias.a[:, None, None]
        far = (torch.arange(T)[:, None] - torch.arange(T)).abs().double()
        added = (-p * torch.log1p(a * far)).expand_as(s)
        both = torch.cat([s, added], 1)
    up, down = edits[0].up, edits[0].down
    hidden = F.leaky_relu(F.conv2d(both, up.weight, up.bias, padding=(0, kernel // 2)), 0.01)
    s = s + added + F.conv2d(hidden, down.weight, down.bias, padding=(0, kernel // 2))
    want = s.softmax(-1) @ v
    for impl in ("chunked", "reference"):
        with bands(2):
            got = softmap.attention(q, k, v, edits, causal=False, impl=impl)
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("variant", ["dcmha(static=true)", "diff2", "talking-heads+temperature"])
@pytest.mark.parametrize(("T", "S"), [(150, 290), (290, 150)])
def test_many_bands_and_tiles(variant: str, T: int, S: int) -> None:
    """Longer than a band of any backend is tall, and a tile is wide."""
    edits = made(variant)
    maps = edits.shapes.maps
    leaves = drawn((1, maps, T, 4), (1, 4, S, 4), (1, 4, S, 4), (1, T, 16), (1, S, 16))
    mask = torch.arange(S)[None] >= 5
    want = results("reference", leaves, edits, key_mask=mask)
    call = make_call(*leaves[:3], edits, causal=False, x=leaves[3], key_x=leaves[4])
    for impl in [name for name, why in explain(call) if why is None]:
        for got, value in zip(results(impl, leaves, edits, key_mask=mask), want, strict=True):
            torch.testing.assert_close(got, value)


@pytest.mark.parametrize(("variant", "options"), [("dcmha", {}), ("dape", {"window": 4})])
def test_tiles_of_a_band(monkeypatch: pytest.MonkeyPatch, variant: str, options: Any) -> None:
    monkeypatch.setattr(tiles, "TILE_BYTES", 1)
    monkeypatch.setattr(tiles, "MIN_ROWS", 2)
    edits, leaves = made(variant), [*qkv(13, 13), *drawn((2, 13, 16))]
    want = results("reference", leaves, edits, **options)
    with bands(5):
        got = results("chunked", leaves, edits, **options)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("T", "S", "window"), [(9, 9, None), (9, 9, 3), (9, 4, None)])
def test_shared_masks_are_those_of_the_band(T: int, S: int, window: int | None) -> None:
    q, k, v = qkv(T, S)
    call = make_call(q, k, v, causal=False, window=window)
    masks = Masks(call, 4)
    for span in call.spans(4):
        got, want = masks.band(span), band_of(call, span)
        for name in ("rows", "cols", "gap", "visible", "whole", "causal", "beyond"):
            same = getattr(got, name) == getattr(want, name)
            assert same if isinstance(same, bool) else same.all(), name
        assert torch.equal(masks.hidden(span) == 0, want.visible)
        assert masks.seen(span) == (0 if window else S)


def test_each_side_has_its_input() -> None:
    """x is the queries' tokens, key_x the keys'; as the edits' tensors of each."""
    edits, (q, k, v), (x, y) = made("dcmha"), qkv(7, 5), drawn((2, 7, 16), (2, 5, 16))
    got = softmap.attention(q, k, v, edits, x=x, key_x=y, causal=False)
    tensors = [e(x, of="query")._replace(key=e(y, of="key").key) for e in edits]
    assert torch.equal(got, softmap.attention(q, k, v, edits, tensors=tensors, causal=False))
    m = attention_map(q, k, edits, x=x, key_x=y, causal=False)
    torch.testing.assert_close(m @ v, got)
    assert not edits[0](x, of="query").key and not edits[0](x, of="key").query


def test_closed_forms_and_native_where_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = qkv(7, 7)
    long = [torch.zeros(1, 2, 512, 8)] * 3  # where native was measured faster for causal rows
    assert choose(make_call(*long, causal=False)) == "folded"
    assert choose(make_call(q, k, v, made("sas"), causal=False)) in ("native", "folded")
    why = dict(explain(make_call(q, k, v, made("kerple"), causal=False)))
    assert str(why["native"]).startswith("Kerple has a native kernel for causal attention alone")
    assert why["chunked"] is None and "Kerple" in str(why["folded"])
    monkeypatch.setattr(triton, "_machine", lambda call: None)
    why = dict(explain(make_call(q, k, v, made("dape"), causal=False)))
    assert why["triton"] == "kernels are for causal attention, found causal=False"
    assert "ScoreConv has a native kernel for causal attention alone" in str(why["native"])


@pytest.mark.parametrize("impl", ON_A_CPU)
def test_what_is_hidden_leaves_no_trace(impl: str) -> None:
    """NaN at padding, in another document, outside of a window."""
    for options, rows in (
        ({"key_mask": torch.arange(8)[None].expand(2, -1) < 6}, slice(0, 6)),
        ({"documents": (torch.arange(8) < 6).int()[None]}, slice(0, 6)),
        ({"window": 2}, slice(0, 5)),
    ):
        q, k, v = qkv(8, 8)
        want = softmap.attention(q, k, v, causal=False, impl="reference", **options)[:, :, rows]
        k[:, :, 6:], v[:, :, 6:] = torch.nan, torch.nan
        leaves = [t.requires_grad_() for t in (q, k, v)]
        got = softmap.attention(*leaves, causal=False, impl=impl, **options)[:, :, rows]
        torch.testing.assert_close(got, want)
        got.sum().backward()
        assert leaves[0].grad is not None and leaves[0].grad[:, :, rows].isfinite().all()


@pytest.mark.parametrize("impl", ON_A_CPU)
def test_a_hidden_key_of_another_sequence_leaves_no_trace(impl: str) -> None:
    q, k, v = qkv(7, 3)
    mask = torch.tensor([[True, True, False], [True] * 3])
    want = softmap.attention(q, k, v, causal=False, key_mask=mask, impl="reference")
    k[0, :, 2], v[0, :, 2] = torch.nan, torch.nan
    leaves = [t.requires_grad_() for t in (q, k, v)]
    got = softmap.attention(*leaves, causal=False, key_mask=mask, impl=impl)
    torch.testing.assert_close(got, want)
    grads = torch.autograd.grad(got.sum(), leaves)
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("impl", ON_A_CPU)
def test_a_sequence_of_padding_gives_zeros(impl: str) -> None:
    q, k, v = qkv(3, 5)
    mask = torch.tensor([[False] * 5, [True] * 5])
    o = softmap.attention(q, k, v, causal=False, key_mask=mask, impl=impl)
    assert not o[0].any() and o[1].all()


def test_second_derivatives() -> None:
    leaves = [t[:1, :2].requires_grad_() for t in qkv(2, 3)]

    def run(*qkv: Tensor) -> Tensor:
        return softmap.attention(*qkv, causal=False)

    torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


X, Y = drawn((2, 7, 16), (2, 5, 16))
REFUSED: dict[str, tuple[str, int, dict[str, Any], str]] = {
    "a causal edit": (
        "fire", 7, {}, "Fire is defined for causal attention alone: expected .*, found causal=False"
    ),
    "a distance": (
        "kerple", 5, {}, "Kerple is defined for self-attention alone: .* of another sequence$"
    ),
    "own token": ("sas", 5, {}, "Shaped is defined for self-attention alone"),
    "input of the keys": ("dcmha", 5, {"x": X}, r"Compose .* expected key_x=\(B, S, D\), found N"),
    "input of the rows": ("dcmha", 5, {"key_x": Y}, r"Compose .* expected x=\(B, T, D\), found N"),
    "keys as rows": ("dcmha", 5, {"x": Y, "key_x": Y}, r"x must be \(batch, queries, width\)"),
    "rows as keys": ("dcmha", 5, {"x": X, "key_x": X}, r"key_x must be \(batch, keys, width\)"),
    "running": (
        "", 7, {"running": (torch.zeros(2, 4, 4), torch.ones(2, 1))}, "running is the sum over"
    ),
    "window": ("", 5, {"window": 3}, "window goes by .* expected None in cross-attention"),
    "documents": ("", 5, {"documents": torch.zeros(1, 5).long()}, "documents are packed in one"),
    "a word": ("", 7, {"causal": "no"}, "causal must be True or False, found 'no'"),
    "none": ("", 7, {"causal": None}, "causal must be True or False, found None"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case: str) -> None:
    variant, keys, options, message = REFUSED[case]
    q, k, v = qkv(7, keys)
    with pytest.raises(SoftmapError, match=message) as error:
        edits = made(variant) if variant else ()
        softmap.attention(q, k, v, edits, **{"causal": False, **options})
    assert "\n" not in str(error.value)


def test_key_x_needs_cross_attention() -> None:
    q, k, v = qkv(7, 7)
    with pytest.raises(SoftmapError, match="expected causal=False with it, found causal=True"):
        softmap.attention(q, k, v, key_x=X)
    with pytest.raises(SoftmapError, match="Kerple is defined for self-attention alone"):
        softmap.attention(q, k, v, made("kerple"), key_x=X, causal=False)


def test_a_row_of_cross_attention_has_no_value_of_its_own() -> None:
    class Own(softmap.Edit):
        stage = "output"

        def edit(self, m: Tensor, band: Any, t: dict[str, Tensor]) -> Tensor:
            return m - band.value

    q, k, v = qkv(7, 5)
    with pytest.raises(SoftmapError, match=r'no value of its own: .* defined_for = "self", found'):
        softmap.attention(q, k, v, [Own()], causal=False)
    q, k, v = qkv(7, 7)
    want = F.scaled_dot_product_attention(q, k, v) - v
    torch.testing.assert_close(softmap.attention(q, k, v, [Own()], causal=False), want)


def test_a_halo_is_of_causal_rows() -> None:
    class Above(softmap.Edit):
        halo = 2

    q, k, v = qkv(7, 7)
    message = r"Above is defined for causal attention alone \(it reads 2 earlier rows\)"
    with pytest.raises(SoftmapError, match=message):
        softmap.attention(q, k, v, [Above()], causal=False)

    class Typo(softmap.Edit):
        defined_for = "both"

    with pytest.raises(SoftmapError, match="defined_for must be one of causal, self, cross, found"):
        softmap.attention(q, k, v, [Typo()])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "options"),
    [("dcmha", {"documents": (torch.arange(20)[None] > 8).int()}), ("dape", {"window": 4})],
)
def test_compiled_bands(variant: str, options: dict[str, Any]) -> None:
    edits, leaves = made(variant), [*qkv(20, 20), *drawn((2, 20, 16))]
    want = results("reference", leaves, edits, **options)
    for got, value in zip(results("compiled", leaves, edits, **options), want, strict=True):
        torch.testing.assert_close(got, value)


@pytest.mark.slow
def test_compiled_bands_of_another_sequence() -> None:
    edits, leaves = made("dcmha"), [*qkv(9, 21), *drawn((2, 9, 16), (2, 21, 16))]
    want = results("reference", leaves, edits)
    for got, value in zip(results("compiled", leaves, edits), want, strict=True):
        torch.testing.assert_close(got, value)

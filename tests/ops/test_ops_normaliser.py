"""A normaliser in place of the softmax, and what output edits and closed forms may read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import softmap
from softmap.errors import SoftmapError
from softmap.maps import Edit, Rows
from softmap.ops import attention, attention_map, explain, make_call
from softmap.testing.subject import bands
from softmap.variants import load

BACKENDS = ["reference", "chunked", "folded", "native"]
MASK = torch.ones(2, 9, dtype=torch.bool)
MASK[0, :4] = False
HOLES = MASK.clone()
HOLES[1, [0, 1, 5]] = False
CALLS: dict[str, dict[str, Any]] = {
    "whole": {},
    "window": {"window": 3},
    "padding": {"key_mask": MASK},
    "nothing": {"key_mask": torch.zeros(2, 9, dtype=torch.bool), "window": 5},
    "documents": {"documents": torch.tensor([[0] * 4 + [1] * 5, [3] + [2] * 8])},
}


class Softmax(Edit):
    """The softmax itself, as an edit; its mask is what it is given."""

    stage = "normaliser"

    def edit(self, m: Tensor, band: Any, t: dict[str, Tensor]) -> Tensor:
        return (m - m.amax(-1, keepdim=True)).softmax(-1)


class SinkOutput(Edit):
    """An attention sink on the output: o sigmoid(lse - b)."""

    stage, needs_lse = "output", True

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.linspace(-1, 1, heads))

    def layer_tensors(self) -> dict[str, Tensor]:
        return {"b": self.b}

    def edit(self, m: Tensor, rows: Rows, t: dict[str, Tensor]) -> Tensor:
        assert rows.lse is not None
        return m * torch.sigmoid(rows.lse - t["b"][:, None])[..., None].to(m.dtype)


class Nothing(Edit):
    """Hides every key of the rows at even places."""

    def edit(self, m: Tensor, band: Any, t: dict[str, Tensor]) -> Tensor:
        return m.masked_fill(band.rows[:, None, :, None] % 2 == 0, -torch.inf)


def qkv(keys: int = 2, queries: int = 9) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = ((2, 4, queries, 6), (2, keys, 9, 6), (2, keys, 9, 5))
    return [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in shapes]


def results(edits: list[Edit], leaves: list[Tensor], **options: Any) -> list[Tensor]:
    """The output, and its gradients for q, k, v and all parameters."""
    with bands(4):
        o = attention(*leaves, edits, **options)
    upstream = torch.linspace(-1, 1, o.numel(), dtype=o.dtype).cos().view_as(o)
    wanted = [*leaves, *(p for e in edits for p in e.parameters())]
    grads = torch.autograd.grad(o, wanted, upstream, allow_unused=True)
    made = [torch.zeros_like(t) if g is None else g for t, g in zip(wanted, grads, strict=True)]
    return [o.detach(), *made]


def same(got: list[Tensor], want: list[Tensor]) -> None:
    for a, b in zip(got, want, strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("impl", ["reference", "chunked"])
@pytest.mark.parametrize("call", CALLS)
def test_the_softmax_as_an_edit_is_the_softmax(impl: str, call: str) -> None:
    leaves = qkv()
    want = results([], leaves, impl="reference", **CALLS[call])
    same(results([Softmax()], leaves, impl=impl, **CALLS[call]), want)


@pytest.mark.parametrize("impl", ["reference", "chunked"])
@pytest.mark.parametrize("name", ["sink", "softpick", "sigmoid", "stick-breaking(rest=true)"])
def test_a_row_that_sees_nothing_is_zeros(impl: str, name: str) -> None:
    """Whether padding hides all keys or an edit does; its gradients are finite."""
    made = [Nothing(), *softmap.edits(name, heads=4, head_dim=6).double()]
    got = results(made, qkv(), impl=impl, key_mask=MASK)
    assert not got[0][:, :, ::2].any() and not got[0][0, :, :4].any()
    assert got[0][1, :, 3::2].any() and all(t.isfinite().all() for t in got)


@pytest.mark.parametrize("impl", BACKENDS)
@pytest.mark.parametrize("call", ["padding", "nothing"])
@pytest.mark.parametrize("name", ["transformer++", "sas", "sink", "temperature"])
def test_padding_rows_are_zeros_on_every_backend(impl: str, call: str, name: str) -> None:
    mask = CALLS[call]["key_mask"]
    made = list(softmap.edits(name, heads=4, head_dim=6).double())
    leaves = qkv(4)
    o, dq, *_ = got = results(made, leaves, impl=impl, **CALLS[call])
    assert not o.transpose(1, 2)[~mask].any() and not dq.transpose(1, 2)[~mask].any()
    assert all(t.isfinite().all() for t in got)
    weights = attention_map(*leaves[:2], made, **CALLS[call])
    assert not weights.transpose(1, 2)[~mask].any()


@pytest.mark.parametrize("impl", BACKENDS)
@pytest.mark.parametrize("call", CALLS)
def test_log_sum_exp_of_the_rows(impl: str, call: str) -> None:
    """A sink as an output edit is the sink as a normaliser, on each backend's own way to it."""
    leaves = qkv()
    sink = softmap.edits("sink", heads=4, head_dim=6)[0].double()
    output = SinkOutput(4).double()
    sink.b.data.copy_(output.b.data)
    want = results([sink], leaves, impl="reference", **CALLS[call])
    same(results([output], leaves, impl=impl, **CALLS[call]), want)
    same(results([sink], leaves, impl=impl, **CALLS[call]), want)


@pytest.mark.parametrize("impl", ["chunked", "native"])
def test_log_sum_exp_is_of_edited_scores(impl: str) -> None:
    """With weights edits between, fewer queries than keys, and holes among the keys."""
    torch.manual_seed(1)
    leaves = qkv(4, queries=5)
    made = [*softmap.edits("kerple+talking-heads", heads=4, head_dim=6), SinkOutput(4)]
    made = [e.double() for e in made]
    options: dict[str, Any] = {} if impl == "native" else {"key_mask": HOLES}
    want = results(made, leaves, impl="reference", **options)
    same(results(made, leaves, impl=impl, **options), want)


def test_log_sum_exp_alone_has_its_gradient() -> None:
    """Where the output itself does not enter the loss."""

    class Only(SinkOutput):
        def edit(self, m: Tensor, rows: Rows, t: dict[str, Tensor]) -> Tensor:
            assert rows.lse is not None
            return rows.lse[..., None].expand_as(m) + t["b"][:, None, None]

    want, *got = (results([Only(4).double()], qkv(), impl=impl) for impl in BACKENDS)
    for found in got:
        same(found, want)


def test_what_has_no_form_is_refused_by_name() -> None:
    q, k, v = qkv()

    def reasons(*edits: Edit) -> dict[str, str | None]:
        return dict(explain(make_call(q, k, v, [e.double() for e in edits])))

    softpick, sink = (softmap.edits(n, heads=4, head_dim=6)[0] for n in ("softpick", "sink"))
    for backend in ("native", "folded"):
        assert "Softpick stands in place of the softmax" in str(reasons(softpick)[backend])
    mix = softmap.edits("talking-heads(pre=false)", heads=4, head_dim=6)[0]
    assert reasons(sink)["folded"] is None
    says = "HeadMix has no closed form, which it needs after Sink"
    assert says in str(reasons(sink, mix)["native"])
    assert reasons(softpick)["chunked"] is None


def test_two_normalisers_are_refused() -> None:
    with pytest.raises(SoftmapError, match=r"^Softmax and Softmax both stand in place of the"):
        attention(*qkv(), [Softmax(), Softmax()])
    with pytest.raises(SoftmapError, match="'sink' and 'softpick' cannot be combined: each puts"):
        load("diff+sink+softpick")


def test_rows_of_output_edits() -> None:
    """Positions, numbers of keys and own values, of queries that are the last of the keys."""
    found = []

    class Look(Edit):
        stage = "output"

        def edit(self, m: Tensor, rows: Rows, t: dict[str, Tensor]) -> Tensor:
            found.append(rows)
            return m

    q, k, v = qkv(queries=3)
    attention(q, k, v, [Look()], key_mask=MASK, window=4)
    (rows,) = found
    assert rows.positions.tolist() == [[6, 7, 8]] and rows.lse is None
    assert rows.count.tolist() == [[3, 4, 4], [4, 4, 4]]
    assert torch.equal(rows.value, v[:, :, 6:].repeat_interleave(2, 1))


def test_padding_has_positions_that_can_be_looked_up() -> None:
    """Not -1: a table would give its last entry, a logarithm NaN."""

    class Logarithm(Edit):
        def edit(self, m: Tensor, band: Any, t: dict[str, Tensor]) -> Tensor:
            assert (band.rows >= 0).all() and (band.cols >= 0).all()
            return m * (1 + band.rows).to(m.dtype).log()[:, None, :, None]

    layer = softmap.nn.Attention(8, 2).double()
    layer.edits.append(Logarithm())
    x = torch.randn(2, 9, 8, dtype=torch.float64, requires_grad=True)
    out = layer(x, key_mask=MASK)
    out[MASK].sum().backward()
    assert out.isfinite().all() and x.grad is not None and x.grad.isfinite().all()


class OfHeads(Edit):
    """S' = S + mean(q_i) + mean(k_j), by tensors of queries and of keys."""

    def tensors_of_q(self, q: Tensor) -> dict[str, Tensor]:
        return {"a": q.mean((1, 3))}

    def tensors_of_k(self, k: Tensor) -> dict[str, Tensor]:
        return {"b": k.mean((1, 3))}

    def edit(self, m: Tensor, band: Any, t: dict[str, Tensor]) -> Tensor:
        return m + t["a"][:, None, :, None] * t["b"][:, None, None, :]


def test_tensors_of_q_and_k() -> None:
    q, k, v = leaves = qkv(queries=5)
    s = torch.einsum("bhid,bhjd->bhij", q, k.repeat_interleave(2, 1)) * 6**-0.5
    s = s + (q.mean((1, 3))[:, :, None] * k.mean((1, 3))[:, None])[:, None]
    hidden = torch.ones(5, 9, dtype=torch.bool).triu(5)
    o = s.masked_fill(hidden, -torch.inf).softmax(-1) @ v.repeat_interleave(2, 1)
    upstream = torch.linspace(-1, 1, o.numel(), dtype=o.dtype).cos().view_as(o)
    want = [o.detach(), *torch.autograd.grad(o, leaves, upstream)]
    same(results([OfHeads()], leaves, impl="chunked"), want)
    with pytest.raises(SoftmapError, match=r"^OfHeads computes .* q=\(B, heads, T, d\), found No"):
        OfHeads()(torch.ones(1, 2, 3))


def test_names_of_x_and_of_q_must_differ() -> None:
    class Twice(OfHeads):
        def query_tensors(self, x: Tensor) -> dict[str, Tensor]:
            return {"a": x}

    with pytest.raises(SoftmapError, match=r"^Twice has two tensors named 'a': expected a name of"):
        attention(*qkv(), [Twice()], x=torch.ones(2, 9, 3, dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sink", "cope"])
def test_compiled_likewise(name: str) -> None:
    made = [*softmap.edits(name, heads=4, head_dim=6).double(), SinkOutput(4).double()]
    want = results(made, qkv(), impl="reference", key_mask=MASK)
    same(results(made, qkv(), impl="compiled", key_mask=MASK), want)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("call", ["whole", "window", "padding"])
def test_log_sum_exp_of_a_gpu(call: str) -> None:
    leaves = [t.detach().float().cuda().requires_grad_() for t in qkv()]
    made = [SinkOutput(4).cuda()]
    options = {n: a.cuda() if isinstance(a, Tensor) else a for n, a in CALLS[call].items()}
    want = results(made, leaves, impl="reference", **options)
    for a, b in zip(results(made, leaves, impl="folded", **options), want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

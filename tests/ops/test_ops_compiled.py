"""Compiled bands: every gradient is the reference's, equal edits share, few shapes, refusals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from softmap.errors import SoftmapError
from softmap.maps import Band, Edit
from softmap.ops import attention, choose, compiled, explain, graphs, make_call
from softmap.testing import CheckSubject
from softmap.testing.compare import assert_same
from softmap.testing.layouts import SequenceLayout, evaluate
from softmap.variants import Place, build, load, names

PARTS = {n: load(n).parts for n in names()}
EDITED = [n for n, p in PARTS.items() if p.scores or p.normaliser or p.weights]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Bands of 4 rows over keys rounded up to 8 or 16, so that a tiny input has several."""
    for name, value in {"MIN_ROWS": 4, "MAX_ROWS": 4, "LENGTHS": 2, "MIN_STEP": 8}.items():
        monkeypatch.setattr(compiled, name, value)
    yield


def same_as_reference(
    variant: str, dtype: torch.dtype, layouts: list[SequenceLayout], **size: int
) -> None:
    subject = CheckSubject(variant, **size)
    layer = subject.layer().to(dtype)
    for layout in layouts:
        layer.impl = "reference"
        want = evaluate_in(subject, layer, layout, dtype)
        layer.impl = "compiled"
        got = evaluate_in(subject, layer, layout, dtype)
        for name, value in want.items():
            tolerance = 1e-9 if dtype is torch.float64 else 1e-4
            assert_same(got[name], value, f"{variant} {dtype}: {name} at {layout}", tolerance)


def evaluate_in(
    subject: CheckSubject, layer: nn.Module, layout: SequenceLayout, dtype: torch.dtype
) -> dict[str, Tensor]:
    class Typed(CheckSubject):
        def input(self, batch: int, tokens: int, _: torch.dtype = dtype) -> Tensor:
            return super().input(batch, tokens, dtype)

    typed = Typed(subject.variant, subject.heads, subject.kv_heads, subject.head_dim, subject.seed)
    return evaluate(typed, layer, layout)  # type: ignore[arg-type]


@pytest.mark.usefixtures("small")
def test_one_variant_quickly() -> None:
    same_as_reference("talking-heads", torch.float64, [SequenceLayout(7)])


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("variant", EDITED)
def test_output_and_gradients_are_the_references(variant: str) -> None:
    layouts = [SequenceLayout(11), SequenceLayout(11, window=4), SequenceLayout(11, queries=6)]
    same_as_reference(variant, torch.float64, layouts)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("variant", EDITED)
def test_padding_and_single_precision(variant: str, dtype: torch.dtype) -> None:
    same_as_reference(
        variant, dtype, [SequenceLayout(12, window=4, left=5), SequenceLayout(11, right=3)]
    )


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("variant", EDITED)
def test_grouped_query(variant: str) -> None:
    if "value" in load(variant).parts.backbone:  # it keeps the width, which grouped values cannot
        variant += "(value=linear,first_value=linear)"
    same_as_reference(variant, torch.float32, [SequenceLayout(11)], kv_heads=2)


class Table(Edit):
    """S' = S + b[h, min(i - j, 3)]: the gradient of a gathered table is a scatter-add."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(place.heads, 4))

    def layer_tensors(self) -> dict[str, Tensor]:
        return {"table": self.table}

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        at = band.distance.clamp(0, 3).long()
        return m + t["table"].to(m.dtype)[:, at[:, 0]].transpose(0, 1)


class Above(Edit):
    """S'[i] = S[i] + w S[i-1], zero above the first row: a halo of one row."""

    halo = 1

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(place.heads))

    def layer_tensors(self) -> dict[str, Tensor]:
        return {"w": self.w}

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        seen = band.zero(m)
        above = nn.functional.pad(seen, (0, 0, 1, 0))[:, :, :-1]
        return m + t["w"][:, None, None] * above


class Peeks(Table):
    """Reads its parameter behind the backend's back."""

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        return m * self.table[:, :1, None]


class Scaled(Edit):
    """S' = c S, c an option or, with ``buffer``, a buffer that is not handed out."""

    def __init__(self, c: float, buffer: bool = False) -> None:
        super().__init__()
        if buffer:
            self.register_buffer("c", torch.tensor(c, dtype=torch.float64))
        else:
            self.c = c

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        return m * self.c  # type: ignore[operator]


PLACE = Place(heads=2, dim=8, head_dim=4, value_dim=4, layer=0, depth=1)


def qkv(tokens: int = 11) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, 2, tokens, 4, dtype=torch.float64).requires_grad_() for _ in range(3)]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", [Table, pytest.param(Above, marks=pytest.mark.slow)])
def test_an_edit_of_ones_own(kind: type[Edit]) -> None:
    edit, leaves = kind(PLACE).double(), qkv(7)  # type: ignore[call-arg]
    results = {}
    for impl in ("reference", "compiled"):
        out = attention(*leaves, [edit], impl=impl)
        grads = torch.autograd.grad(out.sin().sum(), [*leaves, *edit.parameters()])
        results[impl] = [out, *grads]
    for got, want in zip(results["compiled"], results["reference"], strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_documents() -> None:
    documents = torch.tensor([[0] * 5 + [1] * 6, [3] * 2 + [2] * 9])
    for variant in ("sas", "dape"):
        made = [e.double() for e in build(load(variant).parts, 2, 8, 4, 8, 0, 1)]
        leaves = qkv()
        want, got = (
            torch.autograd.grad(
                attention(*leaves, made, documents=documents, impl=impl).sin().sum(),
                [*leaves, *(p for e in made for p in e.parameters())],
            )
            for impl in ("reference", "compiled")
        )
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_layers_share_what_is_compiled() -> None:
    """diff's lambda_init differs from layer to layer, but no band reads it."""
    q, k, v = (torch.randn(1, 4, 9, 4).requires_grad_() for _ in range(3))
    counts = []
    for layer in (0, 3):
        made = build(load("diff").parts, 4, 16, 4, 16, layer, 4)[:1]
        attention(q, k, v[:, :2], made, impl="compiled").sum().backward()
        counts.append(len(graphs._BY_TEXT))
    assert counts[0] == counts[1]


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("buffer", [False, True])
def test_what_an_edit_reads_is_never_stale(buffer: bool) -> None:
    q, k, v = (t.detach() for t in qkv())
    for c in (2.0, 3.0):
        got = attention(q, k, v, [Scaled(c, buffer)], impl="compiled")
        torch.testing.assert_close(got, attention(q * c, k, v, impl="reference"))
    edit = Scaled(2.0, buffer)
    for _ in range(2):
        got = attention(q, k, v, [edit], impl="compiled")
        c = float(edit.c)
        torch.testing.assert_close(got, attention(q * c, k, v, impl="reference"))
        edit.c *= 2  # type: ignore[operator]


def test_equal_edits_are_alike() -> None:
    def of(variant: str, layer: int = 0) -> list[object]:
        made = build(load(variant).parts, 4, 16, 4, 16, layer, 4)
        return [graphs.nature(e, e.layer_tensors().values()) for e in made]

    assert of("dcmha") == of("dcmha", layer=2) != of("dcmha(rank=1)")
    assert of("alibi") == of("alibi")  # its slopes are a buffer that is handed out
    assert of("dape") != of("dape(bias=fire)")
    one, other = Scaled(1.0, buffer=True), Scaled(1.0, buffer=True)
    assert graphs.nature(one) == graphs.nature(one) != graphs.nature(other)


@pytest.mark.parametrize("tokens", [1, 63, 512, 700, 2048])
@pytest.mark.parametrize("window", [None, 100])
def test_bands_cover_all_rows_in_few_shapes(tokens: int, window: int | None) -> None:
    q = torch.empty(6, 8, tokens, 16)
    spans = compiled.bands(make_call(q, q, q, window=window))
    assert len({s.last - s.first for s in spans}) <= compiled.LENGTHS
    assert len({(s.stop - s.start, s.end - s.begin) for s in spans}) == 1
    covered = torch.zeros(6, tokens)
    for s in spans:
        covered[s.begin : s.end, s.start : s.stop] += 1
        assert s.last >= min(s.stop, tokens)
        assert s.first <= (0 if window is None else max(0, s.start - window + 1))
    assert bool((covered == 1).all())


def test_auto_never_takes_it() -> None:
    call = make_call(*qkv(), [Table(PLACE)])
    assert choose(call) == "chunked"
    assert "tens of seconds" in str(dict(explain(call))["compiled"])
    assert choose(call, "compiled") == "compiled"


def test_no_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder, exc

    def none() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    monkeypatch.setattr(compiled, "missing_compiler", graphs.missing_compiler.__wrapped__)
    with pytest.raises(SoftmapError, match=r"needs a C\+\+ compiler.*'folded' can$") as error:
        attention(*qkv(), impl="compiled")
    assert "\n" not in str(error.value)


def test_a_hidden_parameter_is_refused() -> None:
    with pytest.raises(SoftmapError, match=r"Peeks reads a parameter inside edit\(\)"):
        attention(*qkv(), [Peeks(PLACE).double()], impl="compiled")

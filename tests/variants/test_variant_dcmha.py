"""DCMHA against the formula of its paper, written with einsum."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu

from softmap.errors import SoftmapError
from softmap.nn import Attention, Decoder, ModelConfig, accounting
from softmap.nn.positions import Positions
from softmap.testing.subject import perturb, seeded
from softmap.variants import load
from softmap.variants.dcmha import Compose, Factors

SWITCHES = [
    "dcmha",
    "dcmha(rank=1)",
    "dcmha(rank=4,static=true)",
    "dcmha(query=false)",
    "dcmha(key=false)",
    "dcmha(gates=false)",
    "dcmha(low_rank=false)",
    "dcmha(pre=false)",
    "dcmha(post=false,static=true)",
    "dcmha(query=false,key=false,static=true)",
]


def factors(branch: Factors, x: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """w1 (B,T,R,H), w2 (B,T,R,H), g (B,T,H) of the formula; None where switched off."""
    w1 = w2 = gate = None
    if hasattr(branch, "w1"):
        hidden = gelu(torch.einsum("btd,dk->btk", x, branch.w1))
        both = torch.einsum("btk,krh->btrh", hidden, branch.w2)
        rank = both.shape[2] // 2
        w1, w2 = both[:, :, :rank], both[:, :, rank:]
        w1 = w1 / (w1.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    if hasattr(branch, "wg"):
        gate = torch.tanh(torch.einsum("btd,dh->bth", x, branch.wg))
    return w1, w2, gate


def compose(a: Tensor, edit: Compose, x: Tensor) -> Tensor:
    """a' = a W_b + (a.w1_q) w2_q + a g_q + (a.w1_k) w2_k + a g_k for a (B, H, T, T)."""
    out = a
    if edit.static is not None:
        out = out + torch.einsum("bhij,hg->bgij", a, edit.static)
    for branch, n in ((edit.query, "i"), (edit.key, "j")):
        if branch is None:
            continue
        w1, w2, gate = factors(branch, x)
        if w1 is not None:
            low = torch.einsum(f"bhij,b{n}rh->brij", a, w1)
            out = out + torch.einsum(f"brij,b{n}rh->bhij", low, w2)
        if gate is not None:
            out = out + torch.einsum(f"bhij,b{n}h->bhij", a, gate)
    return out


@pytest.mark.parametrize("variant", SWITCHES)
def test_formula(variant: str) -> None:
    with seeded(0):
        layer = perturb(Attention(16, 4, variant, position="none")).double()
        x = torch.randn(2, 6, 16, dtype=torch.float64)
    q, k, v = (
        p(x).view(2, 6, 4, 4).transpose(1, 2) for p in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    future = torch.ones(6, 6, dtype=torch.bool).triu(1)
    s = q @ k.mT / 2
    for edit in (e for e in layer.edits if e.stage == "scores"):
        s = compose(s, edit, x)
    a = s.masked_fill(future, -torch.inf).softmax(-1)
    for edit in (e for e in layer.edits if e.stage == "weights"):
        a = compose(a, edit, x).masked_fill(future, 0.0)
    torch.testing.assert_close(layer.maps(x), a)
    torch.testing.assert_close(layer(x), layer.o_proj((a @ v).transpose(1, 2).flatten(2)))


def test_starts_next_to_plain_attention() -> None:
    with seeded(0):
        layer = Attention(64, 8, "dcmha").double()
        plain = Attention(64, 8).double()
        x = torch.randn(1, 32, 64, dtype=torch.float64)
    shared = {n: p for n, p in layer.state_dict().items() if not n.startswith("edits")}
    plain.load_state_dict(shared)
    difference = (layer.maps(x) - plain.maps(x)).norm() / plain.maps(x).norm()
    assert 0 < difference < 0.05


def test_initial_spread_is_the_papers() -> None:
    dim, heads, rank = 256, 16, 2
    with seeded(0):
        branch = Factors(dim, heads, rank, low_rank=True, gates=True)
    hidden = 2 * rank * heads
    expected = {
        "w1": math.sqrt(2 / (dim + hidden)),
        "w2": 0.01 * math.sqrt(1 / hidden) * 2 / (heads + rank),
        "wg": 0.005 * math.sqrt(2 / (dim + heads)),
    }
    for name, std in expected.items():
        weight = getattr(branch, name)
        assert weight.std().item() == pytest.approx(std, rel=0.1), name
        assert abs(weight.mean().item()) < 0.1 * std, name


@pytest.mark.parametrize(("dim", "heads"), [(64, 8), (32, 4)])
def test_costs_what_the_paper_says(dim: int, heads: int) -> None:
    """20 D H + 64 H^2 parameters a layer; the cache keeps (4R + 2) H numbers more a token."""
    layer, plain = Attention(dim, heads, "dcmha"), Attention(dim, heads)
    more = sum(p.numel() for p in layer.parameters()) - sum(p.numel() for p in plain.parameters())
    assert more == 20 * dim * heads + 64 * heads**2
    kept = [accounting.elements_per_token(a, dim) for a in (layer, plain)]
    assert kept[0] - kept[1] == (4 * 2 + 2) * heads


def config(variant: str, layers: int = 4) -> ModelConfig:
    return ModelConfig(variant, 50, 32, layers, 4)


@pytest.mark.parametrize(
    ("pattern", "windows"), [("LG", [8, None, 8, None]), ("LGLL", [8, None, 8, 8])]
)
def test_pattern_of_windows(pattern: str, windows: list[int | None]) -> None:
    model = Decoder(config(f"dcmha(pattern={pattern},window=8)"))
    assert [layer.attention.window for layer in model.layers] == windows
    default = Decoder(config(f"dcmha(pattern={pattern})"))
    assert default.layers[0].attention.window == 256


def test_dcpythia_backbone() -> None:
    with seeded(0):
        model = Decoder(config("dcmha(backbone=dcpythia)", 1))
    block = model.layers[0]
    assert block.parallel and block.attention.q_proj.bias is not None
    assert isinstance(block.attention_norm, torch.nn.LayerNorm)
    # 25 % rotary: of d = 8 channels the first two turn, with the position.
    x = torch.randn(1, 1, 32).expand(1, 2, 32)
    q, _, _ = block.attention.project(x, Positions.of(2, None, x.device))
    turned = (q[0, :, 0] - q[0, :, 1]).abs() > 1e-4
    assert turned[:, :2].all() and not turned[:, 2:].any()


def test_bad_options() -> None:
    for variant, message in {
        "dcmha(backbone=llama)": "expected one of dcformer\\+\\+, dcpythia, found 'llama'",
        "dcmha(rank=0)": "rank: expected a whole number from 1 to 256, found 0",
        "dcmha(widow=3)": "no option 'widow' \\(did you mean 'window'",
    }.items():
        with pytest.raises(SoftmapError, match=message):
            load(variant)

"""Other sizes of the Differential attention layer against the formula written out."""

from __future__ import annotations

import math

import pytest
import torch
from interop_golden import largest
from torch import Tensor

from softmap.errors import SoftmapError
from softmap.interop import from_official


def make_state(config: dict, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    dim, heads = config["embed_dim"], config["num_heads"]
    kv = (config.get("num_kv_heads") or heads) * dim // heads
    half = dim // heads // 2
    shapes = {"q_proj": (dim, dim), "k_proj": (kv, dim), "v_proj": (kv, dim)}
    shapes |= {"out_proj": (dim, dim), "subln": (2 * half,)}
    state = {f"{n}.weight": torch.randn(*s, dtype=dtype) * 0.3 for n, s in shapes.items()}
    return state | {
        f"lambda_{n}": torch.randn(half, dtype=dtype) * 0.3 for n in ("q1", "k1", "q2", "k2")
    }


def formula(s: dict[str, Tensor], config: dict, x: Tensor) -> Tensor:
    """Section 2.1 of arXiv 2410.05258, head by head; the key halves of group g serve its heads."""
    (B, T, dim), heads = x.shape, config["num_heads"]
    groups = config.get("num_kv_heads") or heads
    d = dim // heads // 2
    q, k = (turn(x @ s[f"{n}_proj.weight"].T, d, config) for n in "qk")
    v = (x @ s["v_proj.weight"].T).view(B, T, groups, 2 * d)
    start = 0.8 - 0.6 * math.exp(-0.3 * config["depth"])
    one, two = ((s[f"lambda_q{n}"] * s[f"lambda_k{n}"]).sum().exp() for n in (1, 2))
    out = []
    for h in range(heads):
        g = h * groups // heads
        a, b = (causal(q[:, :, 2 * h + n] @ k[:, :, 2 * g + n].mT / d**0.5) for n in (0, 1))
        o = (a - (one - two + start) * b) @ v[:, :, g]
        o = o / (o.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * s["subln.weight"]
        out.append((1 - start) * o)
    return torch.cat(out, -1) @ s["out_proj.weight"].T


def turn(x: Tensor, d: int, config: dict) -> Tensor:
    """(B, T, n * d) to rotated (B, T, n, d), by multiplication of complex numbers."""
    x = x.unflatten(-1, (-1, d))
    if config["rope"] == "none":
        return x
    at = torch.arange(x.shape[1], dtype=x.dtype)[:, None, None]
    angle = at * config["rope_base"] ** (-torch.arange(0, d, 2, dtype=x.dtype) / d)
    near = config["rope"] == "interleaved"
    pairs = x.unflatten(-1, (-1, 2)) if near else x.unflatten(-1, (2, -1)).mT
    turned = torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.ones_like(angle), angle)
    back = torch.view_as_real(turned)
    return (back if near else back.mT).flatten(-2)


def causal(scores: Tensor) -> Tensor:
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -math.inf).softmax(-1)


SIZES = [
    {"embed_dim": 24, "num_heads": 3, "num_kv_heads": 1, "depth": 5, "rope": "interleaved"},
    {"embed_dim": 48, "num_heads": 6, "num_kv_heads": 3, "depth": 1, "rope": "half"},
    {"embed_dim": 16, "num_heads": 1, "num_kv_heads": None, "depth": 0, "rope": "none"},
]


@pytest.mark.parametrize("sizes", SIZES)
def test_other_sizes(sizes):
    torch.manual_seed(0)
    config = {**sizes, "rope_base": 500.0}
    state = make_state(config)
    x = torch.randn(2, 9, config["embed_dim"], dtype=torch.float64)
    y = from_official("diff-attention", state, config)(x)
    # Their code, and so the module, takes a few steps in float32.
    assert largest(y, formula(state, config, x)) < 1e-5


def test_float32_state_stays_float32_and_is_copied():
    config = {**SIZES[0], "rope_base": 10000}
    state = make_state(config, torch.float32)
    module = from_official("diff-attention", state, config)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    before = module.q_proj.weight.clone()
    state["q_proj.weight"].zero_()
    assert torch.equal(module.q_proj.weight, before)
    assert all(p.requires_grad for p in module.parameters())


WRONG = [
    ({"rope": "yarn"}, r"rope='yarn'.*interleaved"),
    ({"dropout": 0.1}, r"unknown option dropout=0.1"),
    ({"num_heads": 5}, r"embed_dim must be a multiple of 2 \* num_heads, found 24 and 10"),
    ({"num_kv_heads": 2}, r"num_heads must be a multiple of num_kv_heads, found 3 and 2"),
    ({"depth": -1}, r"depth must be a whole number >= 0, found -1"),
    ({"embed_dim": None}, r"embed_dim must be a whole number >= 1, found none"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_options_that_do_not_fit(change, message):
    config = {**SIZES[0], "rope_base": 10000.0}
    with pytest.raises(SoftmapError, match=message):
        from_official("diff-attention", make_state(config), {**config, **change})


def test_weights_that_do_not_fit():
    config = {**SIZES[0], "rope_base": 10000.0}
    state = make_state(config)
    with pytest.raises(SoftmapError, match=r"weight subln.weight \(8,\) expected, found none"):
        from_official(
            "diff-attention", {k: t for k, t in state.items() if "subln" not in k}, config
        )
    with pytest.raises(SoftmapError, match=r"found extra.weight, which"):
        from_official("diff-attention", {**state, "extra.weight": torch.ones(1)}, config)
    wrong = {**state, "k_proj.weight": torch.ones(24, 24)}
    with pytest.raises(SoftmapError, match=r"k_proj.weight .* \(8, 24\), found \(24, 24\)"):
        from_official("diff-attention", wrong, config)
    with pytest.raises(SoftmapError, match=r"q_proj.weight must be a floating-point tensor.*int64"):
        ids = torch.ones(24, 24, dtype=torch.int64)
        from_official("diff-attention", {**state, "q_proj.weight": ids}, config)


def test_unknown_kind():
    with pytest.raises(SoftmapError, match=r"unknown kind 'dcfomer'.*did you mean 'dcformer'"):
        from_official("dcfomer", {}, {})

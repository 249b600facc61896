"""The controls: talking heads, temperature, gate."""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from softmap.nn import Attention
from softmap.testing.subject import perturb, seeded


def made(variant: str) -> tuple[Attention, torch.Tensor, tuple[torch.Tensor, ...]]:
    with seeded(0):
        layer = perturb(Attention(16, 4, variant, position="none")).double()
        x = torch.randn(2, 6, 16, dtype=torch.float64)
    projections = layer.q_proj, layer.k_proj, layer.v_proj
    return layer, x, tuple(p(x).view(2, 6, 4, 4).transpose(1, 2) for p in projections)


def test_controls_start_as_plain_attention() -> None:
    with seeded(0):
        plain = Attention(16, 4)
        x = torch.randn(2, 6, 16)
    for variant in ("talking-heads", "temperature"):
        layer = Attention(16, 4, variant)
        layer.load_state_dict(plain.state_dict(), strict=False)
        torch.testing.assert_close(layer.maps(x), plain.maps(x))


def test_talking_heads_mix_before_and_after() -> None:
    layer, x, (q, k, v) = made("talking-heads")
    before, after = (e.mix for e in layer.edits)
    s = torch.einsum("bhij,hg->bgij", q @ k.mT / 2, before)
    future = torch.ones(6, 6, dtype=torch.bool).triu(1)
    a = torch.einsum("bhij,hg->bgij", s.masked_fill(future, -torch.inf).softmax(-1), after)
    torch.testing.assert_close(layer(x), layer.o_proj((a @ v).transpose(1, 2).flatten(2)))


def test_temperature_scales_the_scores() -> None:
    layer, x, (q, k, v) = made("temperature")
    tau = layer.edits[0].log_temperature.exp()[:, None, None]
    o = scaled_dot_product_attention(q * tau, k, v, is_causal=True)
    torch.testing.assert_close(layer(x), layer.o_proj(o.transpose(1, 2).flatten(2)))


def test_gate_is_per_head_and_token() -> None:
    layer, x, qkv = made("gated")
    gate = torch.sigmoid(x @ layer.edits[0].gate.weight.T).transpose(1, 2)[..., None]
    o = gate * scaled_dot_product_attention(*qkv, is_causal=True)
    torch.testing.assert_close(layer(x), layer.o_proj(o.transpose(1, 2).flatten(2)))

"""Norms, MLPs, gains, the reparameterised layer, positions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from softmap.errors import SoftmapError
from softmap.nn.layers import MLP, Gain, ReparameterisedLinear, RMSNorm, make_norm, make_projection
from softmap.nn.positions import Positions, angles, rotate, sinusoidal
from softmap.testing.subject import perturb, seeded


def test_rmsnorm_both_forms() -> None:
    x = torch.tensor([[3.0, 4.0]])
    rms = math.sqrt(12.5)
    torch.testing.assert_close(RMSNorm(2, 0.5)(x), x / math.sqrt(12.5 + 0.5))
    torch.testing.assert_close(RMSNorm(2, 0.5, eps_outside=True)(x), x / (rms + 0.5))
    weighted = RMSNorm(2)
    weighted.weight.data = torch.tensor([2.0, 0.0])
    assert weighted(x)[0, 1] == 0
    assert isinstance(make_norm("none", 2, 1e-5), torch.nn.Identity)


def test_mlp_kinds() -> None:
    x = torch.randn(3, 4)
    for kind, act in (("gelu", F.gelu), ("relu", F.relu)):
        mlp = MLP(4, 6, kind)
        torch.testing.assert_close(mlp(x), mlp.down_proj(act(mlp.up_proj(x))))
    gated = MLP(4, 6)
    want = gated.down_proj(F.silu(gated.gate_proj(x)) * gated.up_proj(x))
    torch.testing.assert_close(gated(x), want)


def test_gains() -> None:
    x = torch.ones(2)
    assert Gain(1.0, False)(x) is x
    assert Gain(0.5, False)(x).tolist() == [0.5, 0.5] and not list(Gain(0.5, False).parameters())
    assert Gain(0.0, False).absent and not Gain(0.0, True).absent
    assert Gain(0.1, True).gain.requires_grad  # type: ignore[union-attr]


@pytest.mark.parametrize("init", ["identity", "orthogonal"])
def test_reparameterised_linear(init: str) -> None:
    """y = a x W_init^T + b (x dW^T + bias), and it starts at W_init."""
    with seeded(0):
        layer = ReparameterisedLinear(5, init, bias=True).double()
        x = torch.randn(3, 5, dtype=torch.float64)
    start = torch.eye(5).double() if layer.initial is None else layer.initial
    torch.testing.assert_close(layer(x), x @ start.T)
    torch.testing.assert_close(layer(x).norm(), x.norm(), rtol=1e-6, atol=0)
    perturb(layer)
    want = layer.skip_gain * (x @ start.T) + layer.residual_gain * layer.residual(x)
    torch.testing.assert_close(layer(x), want)
    assert ("initial" in layer.state_dict()) == (init == "orthogonal")


def test_projection_that_keeps_the_width_says_so() -> None:
    with pytest.raises(SoftmapError, match=r"value=identity keeps the width: .* found 4"):
        make_projection("identity", 8, 4, False, "value")
    assert isinstance(make_projection("linear", 8, 4, False, "value"), torch.nn.Linear)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_rope_depends_on_distance_alone(interleaved: bool, fraction: float) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)

    def score(i: int, j: int) -> float:
        at = [torch.tensor([[n]]) for n in (i, j)]
        turned = (
            rotate(t, angles(p, int(8 * fraction), 100.0), interleaved)
            for t, p in zip((q, k), at, strict=True)
        )
        one, two = turned
        return float((one * two).sum())

    for i, j in ((3, 1), (10, 8), (1002, 1000)):
        assert score(i, j) == pytest.approx(score(2, 0), rel=1e-9)
    assert score(2, 1) != pytest.approx(score(2, 0), rel=1e-3)
    assert score(5, 5) == pytest.approx(float((q * k).sum()))


def test_rope_angles_pairs_and_rest() -> None:
    """Angle position * theta^(-2m/r) on pairs (m, m + r/2), or neighbours when interleaved."""
    x = torch.tensor([[[[1.0, 1.0, 0.0, 0.0, 7.0, 7.0, 7.0, 7.0]]]]).double()
    at = angles(torch.tensor([[3]]), 4, 100.0)
    halves = rotate(x, at)[0, 0, 0]
    want = [math.cos(3), math.cos(0.3), math.sin(3), math.sin(0.3), 7, 7, 7, 7]
    assert halves.tolist() == pytest.approx(want)
    neighbours = rotate(x, at, True)[0, 0, 0]
    want = [math.cos(3) - math.sin(3), math.cos(3) + math.sin(3), 0, 0, 7, 7, 7, 7]
    assert neighbours.tolist() == pytest.approx(want)


def test_sinusoidal() -> None:
    got = sinusoidal(torch.tensor([[0, 2]]), 4)[0]
    assert got[0].tolist() == [0, 0, 1, 1]
    want = [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)]
    assert got[1].tolist() == pytest.approx(want)


def test_positions_do_not_count_padding() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    got = Positions.of(4, mask, mask.device)
    assert got.cols.tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]
    assert got.last(2).cols.tolist() == [[0, 1], [2, 2]]
    whole = Positions.of(3, torch.ones(2, 3).bool(), mask.device)
    assert whole.valid is None and whole.cols.tolist() == [[0, 1, 2]]


def test_positions_start_again_with_each_document() -> None:
    documents = torch.tensor([[4, 4, 4, 2, 2]])
    got = Positions.of(5, None, documents.device, documents)
    assert got.cols.tolist() == [[0, 1, 2, 0, 1]] and got.valid is None
    mask = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 0, 1, 1]])
    got = Positions.of(5, mask, mask.device, documents)
    assert got.cols.tolist() == [[0, 0, 1, 0, 0], [0, 1, 1, 0, 1]]
    assert got.starts is not None and got.starts.tolist() == [[0, 0, 0, 3, 3]]

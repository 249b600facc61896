"""Other sizes and biases of DAPE V2 against their formula: two convolutions on zeroed scores."""

from __future__ import annotations

import pytest
import torch
from interop_golden import largest
from torch import Tensor
from torch.nn import functional as F

from softmap.errors import SoftmapError
from softmap.interop import from_official


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64) * 0.5


def make_state(config: dict) -> dict[str, Tensor]:
    heads, hidden, kernel = config["num_heads"], config["hidden"], config["kernel"]
    channels = heads if config["bias"] == "none" else 2 * heads
    state = {
        "mlp2.0.weight": rand(hidden, channels, 1, kernel),
        "mlp2.0.bias": rand(hidden),
        "mlp2.2.weight": rand(heads, hidden, 1, kernel),
        "mlp2.2.bias": rand(heads),
    }
    one = torch.ones((), dtype=torch.float64)
    biases = {
        "none": {},
        "alibi": {"slopes": rand(heads).abs()},
        "kerple": {"bias_p": rand(heads, 1, 1), "bias_a": rand(heads, 1, 1)},
        "fire": {
            "mlp.0.weight": rand(5, 1),
            "mlp.0.bias": rand(5),
            "mlp.2.weight": rand(heads, 5),
            "mlp.2.bias": rand(heads),
            "c": one * -0.3,
            "init_L": one * 6,
            "L_multiplier": one * 0.8,
        },
    }
    return state | biases[config["bias"]]


def bias_of(s: dict[str, Tensor], kind: str, T: int) -> Tensor | None:
    """(H, T, T), lower triangle."""
    i = torch.arange(T, dtype=torch.float64)
    gap = (i[:, None] - i).tril()
    if kind == "alibi":
        return -s["slopes"][:, None, None] * gap
    if kind == "kerple":
        p, a = (s[f"bias_{n}"].clamp(min=0.01) for n in "pa")
        return -p * torch.log(1 + a * gap)
    if kind == "fire":
        reach = i.clamp(min=(s["L_multiplier"] * s["init_L"]).item())
        place = torch.log((s["c"] * gap).abs() + 1)
        place = place / (torch.log((s["c"] * reach).abs() + 1) + 1e-6)[:, None]
        hidden = F.leaky_relu(F.linear(place[..., None], s["mlp.0.weight"], s["mlp.0.bias"]))
        return F.linear(hidden, s["mlp.2.weight"], s["mlp.2.bias"]).permute(2, 0, 1).tril()
    return None


def formula(s: dict[str, Tensor], config: dict, scores: Tensor) -> Tensor:
    """On an array with room to the right, so that no row is cut off."""
    T, half = scores.shape[-1], config["kernel"] // 2
    wide = F.pad(scores.tril(), (0, 2 * half))
    bias = bias_of(s, config["bias"], T)
    features = wide
    if bias is not None:
        bias = F.pad(bias, (0, 2 * half)).expand(len(scores), -1, -1, -1)
        features = torch.cat([wide, bias], 1)
        wide = wide + bias
    hidden = F.conv2d(features, s["mlp2.0.weight"], s["mlp2.0.bias"], padding=(0, half))
    update = F.conv2d(F.leaky_relu(hidden), s["mlp2.2.weight"], s["mlp2.2.bias"], padding=(0, half))
    return (wide + update)[..., :T].tril()


@pytest.mark.parametrize("bias", ["none", "alibi", "kerple", "fire"])
@pytest.mark.parametrize(("heads", "hidden", "kernel"), [(3, 7, 1), (2, 32, 3), (5, 4, 7)])
def test_other_sizes_and_biases(bias, heads, hidden, kernel):
    torch.manual_seed(0)
    config = {"num_heads": heads, "hidden": hidden, "kernel": kernel, "bias": bias}
    state, scores = make_state(config), rand(2, heads, 12, 12)
    module = from_official("dape-v2", state, config)
    expected = formula(state, config, scores)
    assert largest(module(scores), expected) < 1e-12
    # One row at a time, as in decoding: the last row of a shorter array.
    rows = [module(scores[:, :, i : i + 1, : i + 1]) for i in range(12)]
    for i, row in enumerate(rows):
        assert largest(row[:, :, 0], expected[:, :, i, : i + 1]) < 1e-12


def test_what_does_not_fit():
    config = {"num_heads": 2, "hidden": 4, "kernel": 3, "bias": "alibi"}
    state = make_state(config)
    with pytest.raises(SoftmapError, match=r"bias='t5'.*can be: none, alibi, kerple, fire"):
        from_official("dape-v2", state, {**config, "bias": "t5"})
    with pytest.raises(SoftmapError, match=r"kernel must be odd, found 4"):
        from_official("dape-v2", state, {**config, "kernel": 4})
    with pytest.raises(SoftmapError, match=r"weight bias_p \(2, 1, 1\) expected"):
        from_official("dape-v2", state, {**config, "bias": "kerple"})
    module = from_official("dape-v2", state, config)
    with pytest.raises(SoftmapError, match=r"\(batch, 2, rows, keys\).*found \(1, 3, 4, 4\)"):
        module(torch.zeros(1, 3, 4, 4))

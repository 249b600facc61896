"""``softmap.edits``: one call gives what a layer builds, and says what it takes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import softmap
from softmap.errors import SoftmapError
from softmap.nn import Attention
from softmap.nn.positions import Positions
from softmap.ops import attention_map
from softmap.variants import names

COMPOSED = ["diff+dcmha(rank=1)", "diff2+dape", "gated+diff"]


def made(variant: Any, **sizes: Any) -> Any:
    torch.manual_seed(0)
    return softmap.edits(variant, **{"heads": 4, "head_dim": 8, **sizes}).double()


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("variant", [*names(), *COMPOSED])
def test_it_is_what_the_layer_builds(variant: str, kv_heads: int) -> None:
    """The layer's own q, k, v with its parameters: the same output, by the same names."""
    torch.manual_seed(1)
    sizes: Any = {"head_dim": 8, "kv_heads": kv_heads, "layer": 1, "depth": 3}
    sizes |= {"value": "linear", "output": "linear"}  # some variants have none, of one width only
    layer = Attention(24, 4, variant, **sizes).double()
    edits = made(variant, dim=24, layer=1, depth=3)
    edits.load_state_dict(layer.edits.state_dict())
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    q, k, v = layer.project(x, Positions.of(7, None, x.device))
    assert v.shape[1] == edits.shapes.values(kv_heads) and v.shape[3] == edits.shapes.value_dim
    o = softmap.attention(q, k, v, edits, x=x)
    assert o.shape == (2, edits.shapes.outputs, 7, edits.shapes.value_dim)
    torch.testing.assert_close(layer.o_proj(o.transpose(1, 2).flatten(2)), layer(x))
    if not any(e.stage == "output" for e in edits):
        shown = attention_map(q, k, edits, x=x)
        torch.testing.assert_close(shown, layer.maps(x))


def test_it_is_a_module() -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.edits = softmap.edits("diff2", heads=2, head_dim=4, dim=6)

    mine = copy.deepcopy(Mine()).double()
    assert list(mine.state_dict()) == ["edits.0.to_lambda.weight"]
    q, k, x = torch.randn(1, 4, 3, 4), torch.randn(1, 2, 3, 4), torch.randn(1, 3, 6)
    softmap.attention(q.double(), k.double(), k.double(), mine.edits, x=x.double()).sum().backward()
    (grad,) = (p.grad for p in mine.parameters())
    assert grad is not None and grad.any()
    assert list(mine.edits[:0]) == [] and mine.edits[:1][0] is mine.edits[0]


def test_it_says_what_it_takes() -> None:
    assert str(made("diff").shapes) == "q (B, 4, T, 8), k (B, 4, S, 8), v (B, 2, S, 16)"
    assert str(made("diff2").shapes) == "q (B, 8, T, 8), k (B, 4, S, 8), v (B, 4, S, 8)"
    assert made("dape").backbone == {"position": "none"}
    assert len(made("transformer++")) == 0


@pytest.mark.parametrize(
    ("variant", "q", "k", "v", "x"),
    [
        ("diff2", (4, 8), (4, 8), (4, 8), 32),  # as of a plain layer
        ("diff", (4, 8), (4, 8), (4, 8), 32),
        ("diff", (4, 8), (4, 8), (2, 8), 32),  # half as wide as its head norm
        ("dcmha", (8, 8), (4, 8), (4, 8), 32),
        ("dape", (4, 6), (4, 6), (4, 6), 32),
        ("transformer++", (4, 8), (3, 8), (3, 8), 32),
        ("transformer++", (2, 8), (2, 8), (2, 8), 32),
        ("dcmha", (4, 8), (4, 8), (4, 8), 31),
    ],
)
def test_what_does_not_fit_is_told(variant: str, q: Any, k: Any, v: Any, x: int) -> None:
    tensors = [torch.randn(1, h, 3, d, dtype=torch.float64) for h, d in (q, k, v)]
    edits = made(variant)
    says = str(edits.shapes) if x == 32 else r"edits for dim=32 take x (B, S, 32), found (1, 3, 31)"
    with pytest.raises(SoftmapError) as error:
        softmap.attention(*tensors, edits, x=torch.randn(1, 3, x, dtype=torch.float64))  # type: ignore[arg-type]
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"heads": 3}, "diff subtracts pairs of maps: expected an even number, found 3"),
        ({"heads": 0}, r"edits: heads: expected a whole number from 1 .*, found 0"),
        ({"head_dim": 2.5}, "edits: head_dim: expected a whole number"),
        ({"dim": True}, "edits: dim: expected a whole number"),
        ({"layer": -1}, "edits: layer: expected a whole number from 0"),
        ({"layer": 1}, "edits: layer counts from 0 and is below depth=1, found 1"),
        ({"layer": 5, "depth": 5}, "edits: layer .* below depth=5, found 5"),
        ({"variant": "dif"}, "unknown variant 'dif'"),
    ],
)
def test_bad_sizes_are_told(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(SoftmapError, match=says):
        made(wrong.pop("variant", "diff"), **wrong)


def test_width_of_the_values_is_free() -> None:
    q, v = torch.randn(1, 4, 3, 8).double(), torch.randn(1, 4, 3, 5).double()
    assert softmap.attention(q, q, v, made("dape")).shape == (1, 4, 3, 5)

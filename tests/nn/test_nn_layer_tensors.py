"""A cache keeps the tensors of the layer, so that they are not computed again for every token."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from softmap.nn import Attention
from softmap.variants.diff import Difference


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Difference]:
    """The edits whose lambda has been computed, in order."""
    calls: list[Difference] = []
    plain = Difference.layer_tensors

    def counted(edit: Difference) -> dict[str, Tensor]:
        calls.append(edit)
        return plain(edit)

    monkeypatch.setattr(Difference, "layer_tensors", counted)
    return calls


def made() -> Attention:
    """A layer of diff whose output is not zero, as that of a new one is."""
    layer = Attention(16, 4, "diff").double()
    torch.nn.init.normal_(layer.o_proj.weight)  # type: ignore[arg-type]
    return layer


def decode(layer: Attention, x: Tensor) -> Tensor:
    cache = layer.new_cache()
    return torch.cat([layer(x[:, n : n + 1], cache=cache) for n in range(x.shape[1])], 1)


def test_once_a_cache(computed: list[Difference]) -> None:
    layer, x = made(), torch.randn(1, 5, 16).double()
    with torch.no_grad():
        got = decode(layer, x)
        assert len(computed) == 1
        layer.edits[0].lambda_q1 += 1.0  # type: ignore[operator]
        changed = decode(layer, x)  # another cache, other weights
        torch.testing.assert_close(changed, layer(x))
    assert not torch.allclose(got, changed)


def test_gradients_reach_it_at_every_token(computed: list[Difference]) -> None:
    layer, x = made(), torch.randn(1, 4, 16).double()
    weight = layer.edits[0].lambda_q1
    (got,) = torch.autograd.grad(decode(layer, x).square().sum(), weight)  # type: ignore[arg-type]
    assert len(computed) == 4
    (want,) = torch.autograd.grad(layer(x).square().sum(), weight)  # type: ignore[arg-type]
    torch.testing.assert_close(got, want)


@torch.no_grad()
def test_a_layer_never_takes_that_of_another() -> None:
    one, two = made(), made()
    x = torch.randn(1, 4, 16).double()
    two.load_state_dict(one.state_dict())
    two.edits[0].lambda_q1 += 1.0  # type: ignore[operator]
    cache = one.new_cache()
    one(x[:, :3], cache=cache)
    got = two(x[:, 3:], cache=cache)  # the keys of both are the same
    torch.testing.assert_close(got, two(x)[:, 3:])

"""Layers without a causal mask: encoders, and rows over the tokens of another sequence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from softmap.errors import SoftmapError
from softmap.nn import Attention, Record, Share
from softmap.nn.positions import Positions
from softmap.testing import CheckSubject
from softmap.testing.dense import dense

SUBJECT = CheckSubject("dcmha")
X, Y = SUBJECT.input(2, 6), SUBJECT.with_seed(1).input(2, 5)


def layer(variant: str = "dcmha", **options: Any) -> Attention:
    return CheckSubject(variant).layer(**{"causal": False, **options})


def test_a_plain_encoder_layer_by_hand() -> None:
    made = layer("transformer++", position="none")
    q, k, v = (p(X).unflatten(-1, (4, 8)).transpose(1, 2)
               for p in (made.q_proj, made.k_proj, made.v_proj))  # fmt: skip
    o = scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(made(X), made.o_proj(o.transpose(1, 2).flatten(2)))


def test_rows_over_their_own_tokens_are_self_attention() -> None:
    """With positions of both sides rotary ones too; without, there are none."""
    made, at = layer(), Positions.of(6, None, X.device)
    torch.testing.assert_close(made(X, context=X, context_positions=at), made(X))
    torch.testing.assert_close(made(X, context=X), layer(position="none")(X))
    assert not torch.allclose(made(X, context=X), made(X))


def test_positions_of_rows_that_come_one_by_one() -> None:
    made, at = layer(), Positions.of(5, None, X.device)
    want = made(X, context=Y, context_positions=at)
    assert not torch.allclose(want, made(X, context=Y))
    context = made.project_context(Y, positions=at)
    rows = [
        made(X[:, n : n + 1], Positions.of(n + 1, None, X.device), context=context)
        for n in range(6)
    ]
    torch.testing.assert_close(torch.cat(rows, 1), want)


def test_a_shaped_map_has_the_mean_of_all_values() -> None:
    """W_Q = 0 makes all scores equal: alpha I + (beta - gamma) / n, n the real tokens."""
    made = layer("sas", value="linear", first_value="linear", output="linear")
    torch.nn.init.zeros_(made.q_proj.weight)
    edit: Any = made.edits[0]
    mask = torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]])
    record = Record(wants_maps=True)
    made(X, key_mask=mask, record=record)
    for row, n in zip(record.maps[0], (6, 3), strict=True):
        gain = (edit.beta - edit.gamma)[:, None, None] / n
        want = edit.alpha[:, None, None] * torch.eye(n).double() + gain
        torch.testing.assert_close(row[:, :n, :n], want)
        assert not row[:, :n, n:].any()


def test_a_symmetric_bias() -> None:
    made = layer("alibi")
    torch.nn.init.zeros_(made.q_proj.weight)
    m, slopes = made.maps(X), made.edits[0].slopes.double()  # type: ignore[union-attr]
    far = (torch.arange(6)[:, None] - torch.arange(6)).abs()
    torch.testing.assert_close(m[0], (-slopes[:, None, None] * far).softmax(-1))


def test_maps_of_a_context_with_padding_among_are_in_its_order() -> None:
    made, mask = layer("dape(bias=none)"), torch.tensor([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1]])
    record = Record(wants_maps=True)
    made(X, context=Y, context_mask=mask, record=record)
    alone = made.maps(X[:1], Y[:1, mask[0].bool()])
    torch.testing.assert_close(record.maps[0][:1, ..., mask[0].bool()], alone)
    assert not record.maps[0][0, ..., [1, 4]].any()


def test_positions_of_a_padded_context() -> None:
    """Counted over its real tokens; a mask is heeded whichever way it comes."""
    made, mask = layer("diff"), torch.tensor([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1]])
    at = Positions.of(5, mask, X.device)
    got = made(X, context=Y, context_positions=at)
    assert torch.equal(made(X, context=Y, context_positions=at, context_mask=mask), got)
    real = Positions.of(3, None, X.device)
    want = made(X[:1], context=Y[:1, mask[0].bool()], context_positions=real)
    torch.testing.assert_close(got[:1], want)


def test_padding_at_the_right_is_hidden() -> None:
    """Causal rows never see it, these would."""
    made, mask = layer(), torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
    got = made(X, key_mask=mask)
    torch.testing.assert_close(got[1:, :4], dense(made, X[1:, :4]))


def test_a_causal_layer_is_what_it_was() -> None:
    made = layer(causal=True)
    changed = X.clone()
    changed[:, 4:] += 1
    assert torch.equal(made(changed)[:, :4], made(X)[:, :4])
    assert not torch.allclose(layer()(changed)[:, :4], layer()(X)[:, :4])


@pytest.mark.slow
def test_compiled_as_a_whole() -> None:
    """Under a compiler no number can be read, so padding is moved wherever it lies."""
    made, mask = layer("diff"), torch.tensor([[1] * 5, [0, 1, 1, 0, 1]])
    run = torch.compile(made, backend="eager")
    torch.testing.assert_close(run(X), made(X))
    want = made(X, context=Y, context_mask=mask)
    torch.testing.assert_close(run(X, context=Y, context_mask=mask), want)


def share(at: Positions) -> Positions:
    return Positions(at.cols, None, share=Share(None, 0, 1, 6))


AT = Positions.of(6, None, X.device)
PROJECTED = layer().project_context(Y)
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "causal layer": ({"causal": True}, {"context": Y}, "expected a layer with causal=False, found"),
    "word": ({"causal": "no"}, {}, "causal: expected true or false, found"),
    "causal edit": ({"variant": "fire"}, {}, "Fire is defined for causal attention alone"),
    "distances": ({"variant": "kerple"}, {"context": Y}, "Kerple is defined for self-attention"),
    "own token": ({"variant": "sas"}, {"context": Y}, "Shaped is defined for self-attention alone"),
    "window": ({"window": 3}, {"context": Y}, "window goes by .* expected None beside context"),
    "cache": ({}, {"cache": layer().new_cache()}, "cache is of rows that see no later token"),
    "share": ({}, {"positions": share(AT)}, "share is of rows that see no later token"),
    "cache beside": ({}, {"context": Y, "cache": layer().new_cache()}, "cache is of x's own keys"),
    "documents": (
        {}, {"context": Y, "documents": torch.zeros(2, 6).long()}, "documents is of x's own keys"
    ),
    "mask alone": ({}, {"context_mask": torch.ones(2, 5)}, "context_mask belongs to context"),
    "mask again": (
        {}, {"context": PROJECTED, "context_mask": torch.ones(2, 5)}, "belongs to project_context"
    ),
    "mask of x": (
        {}, {"context": Y, "context_mask": torch.ones(2, 6).bool()}, r"must be \(batch, 5\)"
    ),
    "positions": (
        {}, {"context": Y, "context_positions": AT}, "must be of its 5 tokens, found those of 6"
    ),
    "width": ({}, {"context": Y[..., :3]}, r"context must be \(batch, tokens, 32\), found"),
    "no token": ({}, {"context": Y[:, :0]}, r"context must be \(batch, tokens, 32\), found"),
    "batch": ({}, {"context": Y[:1]}, "must have one batch size"),
    "kind": ({}, {"context": [1]}, r"context must be \(batch, tokens, 32\), found list"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case: str) -> None:
    options, call, message = REFUSED[case]
    with pytest.raises(SoftmapError, match=message) as error:
        layer(**options)(X, **call)
    assert "\n" not in str(error.value)


def test_gradients_reach_the_context() -> None:
    made = layer("diff+dcmha")
    x, y = (t.clone().requires_grad_() for t in (X, Y))
    leaves: list[Tensor] = [x, y, *made.parameters()]
    grads = torch.autograd.grad(made(x, context=y).sin().sum(), leaves)
    assert all(g.any() for g in grads)

"""Padding anywhere: real tokens get what they get alone, or the mask is refused in one line."""

from __future__ import annotations

import pytest
import torch

from softmap.errors import SoftmapError
from softmap.nn import Attention, Decoder, ModelConfig
from softmap.nn.positions import Positions
from softmap.nn.tokens import taken
from softmap.testing.subject import perturb


def decoder(variant: str, **fields: object) -> Decoder:
    torch.manual_seed(0)
    config = ModelConfig(
        variant=variant, vocab_size=23, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=16, max_position_embeddings=32, **fields,
    )  # fmt: skip
    return perturb(Decoder(config)).double().eval()


def mask_of(text: str) -> torch.Tensor:
    return torch.tensor([[c == "1" for c in row] for row in text.split()])


@pytest.mark.parametrize(
    ("mask", "cached", "padding"),
    [
        ("1111 1111", None, "none"),
        ("0011 1111", None, "left"),
        ("0011 1111", 0, "left"),
        ("1100 1111", None, "right"),
        ("1100 1111", 0, "among"),  # later tokens would see it
        ("1100 0111", None, "among"),
        ("1011 1111", None, "among"),
        ("0000 1111", None, "left"),
        ("1011 1111", 3, "left"),  # the cache holds its tokens in order: 011
        ("1110 1111", 3, "among"),
    ],
)
def test_where_padding_lies(mask: str, cached: int | None, padding: str) -> None:
    at = Positions.of(4, mask_of(mask), torch.device("cpu"), None, cached)
    assert at.padding == padding


def test_places_in_packed_documents() -> None:
    documents = torch.tensor([[0, 0, 0, 1, 1, 1]])
    for mask, padding in (("011001", "left"), ("110100", "right"), ("101011", "among")):
        at = Positions.of(6, mask_of(mask), documents.device, documents)
        assert at.padding == padding
    order = at.order(6)
    assert order.tolist() == [[1, 0, 2, 3, 4, 5]]
    arranged = at.arranged(order)
    assert arranged.valid is not None and arranged.cols[arranged.valid].tolist() == [0, 1, 0, 1]


def test_taken_takes_each_sequence_in_its_order() -> None:
    t = torch.arange(6).view(1, 3, 2)
    got = taken(t, torch.tensor([[2, 0, 1], [0, 1, 2]]), 1)
    assert got.tolist() == [[[4, 5], [0, 1], [2, 3]], [[0, 1], [2, 3], [4, 5]]]


@pytest.mark.parametrize("variant", ["transformer", "dape(bias=fire)", "dcmha+diff", "sas"])
@pytest.mark.parametrize("mask", ["011001 111111", "110100 111100", "101011 110101"])
def test_padding_in_packed_documents(variant: str, mask: str) -> None:
    """Each document alone, without its padding: the rows and the gradients."""
    model, valid = decoder(variant), mask_of(mask)
    torch.manual_seed(1)
    x = torch.randn(2, 6, 16, dtype=torch.float64, requires_grad=True)
    documents = torch.tensor([[0, 0, 0, 1, 1, 1]])
    got = model(None, valid, inputs_embeds=x, documents=documents)[valid]
    parts = [
        model(inputs_embeds=x[b : b + 1, s][:, valid[b, s]])[0]
        for b in (0, 1)
        for s in (slice(0, 3), slice(3, 6))
    ]
    want = torch.cat(parts)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    grads = [torch.autograd.grad(o.cos().sum(), x, retain_graph=True)[0] for o in (got, want)]
    torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("variant", ["dape", "sas"])
def test_a_layer_alone_takes_padding_anywhere(variant: str) -> None:
    torch.manual_seed(0)
    layer = perturb(Attention(16, 4, variant, window=3)).double()
    x, mask = torch.randn(1, 7, 16, dtype=torch.float64), mask_of("1010111")
    want = layer(x[:, mask[0]])
    torch.testing.assert_close(layer(x, key_mask=mask)[mask], want[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variant", ["dape", "transformer++(pattern=LG,window=3)"])
def test_a_cache_keeps_tokens_in_order_once(variant: str) -> None:
    """After a pass with padding among the tokens the next one need not move any again."""
    model, mask = decoder(variant), mask_of("11010 01111")
    caches = model.new_caches()
    model(torch.ones(2, 5, dtype=torch.long), mask, caches)
    longer = torch.cat([mask, torch.ones(2, 1, dtype=torch.bool)], 1)
    assert Positions.of(6, longer, mask.device, None, 5).padding == "left"
    model(torch.ones(2, 1, dtype=torch.long), longer, caches)
    assert caches[0].seen == 6


@pytest.mark.parametrize("later", [None, "111111", "101011", "011111"])
def test_a_mask_may_not_change_its_mind(later: str | None) -> None:
    model, first = decoder("transformer++"), mask_of("11011")
    caches = model.new_caches()
    model(torch.ones(1, 5, dtype=torch.long), first, caches)
    mask = None if later is None else mask_of(later)
    with pytest.raises(SoftmapError, match="must say of cached tokens what it said when they"):
        model(torch.ones(1, 1, dtype=torch.long), mask, caches)
    fresh = model.new_caches()
    model(torch.ones(1, 5, dtype=torch.long), None, fresh)
    with pytest.raises(SoftmapError, match="expected its first 5 columns as before"):
        model(torch.ones(1, 1, dtype=torch.long), mask_of("110111"), fresh)


@pytest.mark.parametrize(
    "variant", ["dcmha", "sas", "dape+transformer++(pattern=LG,window=3)", "dcmha+diff"]
)
def test_tokens_with_padding_among_them_are_taken_back(variant: str) -> None:
    """As if they had never come, though padding of theirs was moved before earlier tokens."""
    model = decoder(variant)
    ids, mask = torch.arange(14).view(2, 7) % 23, mask_of("1101101 0111011")
    want, got = model.new_caches(), model.new_caches()
    for caches, upto in ((want, 5), (got, 7)):
        model(ids[:, :4], mask[:, :4], caches)
        for cache in caches:
            cache.record()
        model(ids[:, 4:upto], mask[:, :upto], caches)
    for cache in got:
        cache.crop(5)
    for one, other in zip(want, got, strict=True):
        assert one.seen == other.seen == 5
        for (name, t), (_, u) in zip(one.tensors(), other.tensors(), strict=True):
            torch.testing.assert_close(u, t, msg=name)
    both = [model(ids[:, 5:], mask, caches) for caches in (want, got)]
    torch.testing.assert_close(both[1][mask[:, 5:]], both[0][mask[:, 5:]])


def test_rows_of_right_padding_cost_no_mask() -> None:
    """Causal rows never see what follows them."""
    at = Positions.of(4, mask_of("1100 1111"), torch.device("cpu"))
    assert at.key_mask is None and at.cols.tolist() == [[0, 1, 2, 3]]
    assert at.valid is not None

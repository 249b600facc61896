"""What a layer's cache holds, and what it costs."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from softmap.errors import SoftmapError
from softmap.maps import Band, Edit
from softmap.nn import Attention, Decoder, LayerCache, ModelConfig, accounting, attention_maps
from softmap.testing.subject import perturb


def filled(variant: str, tokens: int = 9, **options: object) -> LayerCache:
    torch.manual_seed(0)
    layer = perturb(Attention(16, 4, variant, layer=1, **options))
    cache = layer.new_cache()
    x = torch.randn(1, tokens, 16)
    for n in range(tokens):
        layer(x[:, n : n + 1], cache=cache)
    assert cache.seen == tokens
    return cache


def shapes(cache: LayerCache) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in cache.tensors()}


def test_holds_exactly_what_is_declared() -> None:
    plain = {"k": (1, 4, 9, 4), "v": (1, 4, 9, 4)}
    assert shapes(filled("transformer++")) == plain
    assert shapes(filled("diff2")) == plain
    assert shapes(filled("dape")) == plain
    assert shapes(filled("diff")) == {"k": (1, 4, 9, 4), "v": (1, 2, 9, 8)}
    factors = {"k1": (1, 9, 2, 4), "k2": (1, 9, 2, 4), "kg": (1, 9, 4)}
    both = {f"{n}.{name}": s for n in (0, 1) for name, s in factors.items()}
    assert shapes(filled("dcmha")) == plain | both
    mean = {"running.sum": (1, 4, 4), "running.count": (1, 1)}
    assert shapes(filled("sas")) == plain | mean
    assert shapes(filled("v-skipinit")) == plain


@pytest.mark.parametrize("variant", ["transformer++", "dcmha", "sas"])
@pytest.mark.parametrize(("window", "kept"), [(4, 3), (1, 0), (20, 9)])
def test_window_bounds_it(variant: str, window: int, kept: int) -> None:
    cache = filled(variant, window=window)
    assert all(t.shape[1 if n[0].isdigit() else 2] == kept for n, t in cache.tensors()), variant
    assert cache.running is None


def test_crop_needs_a_record_where_it_forgets() -> None:
    for variant, options in (("sas", {}), ("dcmha", {"window": 3})):
        with pytest.raises(SoftmapError, match="cannot be cropped from 9 to 8 tokens"):
            filled(variant, **options).crop(8)
    cache = filled("dcmha")
    cache.crop(8)
    assert cache.seen == 8 and shapes(cache)["0.k1"] == (1, 8, 2, 4)
    cache.crop(20)
    assert cache.seen == 8


class PreviousRow(Edit):
    """An output edit that reads the row above."""

    stage, halo = "output", 1

    def edit(self, m: torch.Tensor, band: Band, t: dict[str, torch.Tensor]) -> torch.Tensor:
        return m + torch.nn.functional.pad(m, (0, 0, 1, 0))[:, :, :-1]


@pytest.mark.parametrize("variant", ["transformer++", "sas"])
def test_halo_and_running_mean_decode_together(variant: str) -> None:
    torch.manual_seed(0)
    layer = Attention(16, 4, variant).double()
    perturb(layer)
    layer.edits.append(PreviousRow())
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    cache = layer.new_cache()
    steps = [layer(part, cache=cache) for part in x.split([4, 1, 4], 1)]
    torch.testing.assert_close(torch.cat(steps, 1), layer(x))


@torch.no_grad()
@pytest.mark.parametrize("window", [None, 5])
def test_a_token_is_written_into_room_kept_for_it(window: int | None) -> None:
    layer = Attention(16, 4, "dcmha", window=window)
    cache, x = layer.new_cache(), torch.randn(1, 60, 16)
    places = set()
    for n in range(60):
        layer(x[:, n : n + 1], cache=cache)
        places.add(tuple(t.untyped_storage().data_ptr() for _, t in cache.tensors()))
    assert len(places) < 20


@torch.no_grad()
def test_two_caches_that_went_apart_do_not_write_over_each_other() -> None:
    layer, x = perturb(Attention(16, 4, "dcmha")), torch.randn(1, 12, 16)
    one = layer.new_cache()
    layer(x[:, :6], cache=one)
    layer(x[:, 6:7], cache=one)
    other = copy.copy(one)
    layer(-x[:, 7:9], cache=other)
    got = layer(x[:, 7:12], cache=one)
    torch.testing.assert_close(got, layer(x)[:, 7:], rtol=1e-4, atol=1e-5)
    one.crop(9)
    torch.testing.assert_close(layer(x[:, 9:], cache=one), got[:, 2:], rtol=1e-4, atol=1e-5)
    assert other.seen == 9 and other.k is not None and other.k.shape[2] == 9


def test_what_was_cached_in_inference_mode_can_be_added_to() -> None:
    layer, x = Attention(16, 4, "dcmha"), torch.randn(1, 9, 16)
    cache = layer.new_cache()
    with torch.inference_mode():
        layer(x[:, :5], cache=cache)
        layer(x[:, 5:6], cache=cache)
    with torch.no_grad():
        got = torch.cat([layer(x[:, n : n + 1], cache=cache) for n in range(6, 9)], 1)
        torch.testing.assert_close(got, layer(x)[:, 6:], rtol=1e-4, atol=1e-5)


def test_rows_can_be_picked_and_repeated() -> None:
    torch.manual_seed(0)
    layer = perturb(Attention(16, 4, "sas", layer=1))
    x = torch.randn(2, 4, 16)
    cache = layer.new_cache()
    layer(x, cache=cache)
    before = dict(cache.tensors())
    cache.select(torch.tensor([1, 1, 0]))
    for name, t in cache.tensors():
        assert torch.equal(t, before[name][[1, 1, 0]]), name
    cache.repeat(2)
    assert all(t.shape[0] == 6 for _, t in cache.tensors())


def config(variant: str = "transformer++", **options: object) -> ModelConfig:
    return ModelConfig(variant, 100, 32, 2, 4, **options)  # type: ignore[arg-type]


def test_parameters_by_hand() -> None:
    """4 D^2 + 3 D W and two norms a layer, one norm, an embedding that is the head."""
    layer = 4 * 32 * 32 + 3 * 32 * 88 + 2 * 32
    total = {"total": 2 * layer + 32 + 3200, "non_embedding": 2 * layer + 32}
    assert accounting.parameters(config()) == total
    untied = accounting.parameters(config(tie_word_embeddings=False))
    assert untied == total | {"total": total["total"] + 3200}  # a head is not of the layers


def test_flops_by_hand() -> None:
    """3 x (2 a weight, and 4 D a visible key, of which a row of 64 has 32.5 on average)."""
    weights = 2 * (4 * 32 * 32 + 3 * 32 * 88) + 3200
    assert accounting.flops_per_token(config(), 64) == 3 * (2 * weights + 2 * 4 * 32 * 32.5)
    local = config(backbone={"pattern": "L", "window": 4})
    keys = (1 + 2 + 3 + 4 * 61) / 64
    assert accounting.flops_per_token(local, 64) == int(3 * (2 * weights + 2 * 4 * 32 * keys))


def test_edits_add_their_own_flops() -> None:
    more = accounting.flops_per_token(config("talking-heads"), 64)
    more -= accounting.flops_per_token(config(), 64)
    assert more == 3 * 2 * 2 * (2 * 4 * 4) * 32.5


def test_cache_bytes_by_hand() -> None:
    assert accounting.cache_bytes_per_token(config()) == 2 * 2 * 32 * 2
    assert accounting.cache_bytes_per_token(config(num_key_value_heads=1)) == 2 * 2 * 8 * 2
    half = config(backbone={"pattern": "LG", "window": 4})
    assert accounting.cache_bytes_per_token(half, 4) == 2 * 32 * 4


@pytest.mark.parametrize("variant", ["diff", "dcmha", "sas", "transformer"])
def test_width_is_solved(variant: str) -> None:
    target = accounting.parameters(ModelConfig("transformer++", 500, 64, 4, 4))["total"]
    wanted = ModelConfig(variant, 500, 64, 4, 4, max_position_embeddings=64)
    width = accounting.solve_intermediate_size(wanted, target)
    got = accounting.parameters(dataclasses.replace(wanted, intermediate_size=width))["total"]
    assert abs(got - target) <= 0.01 * target
    with pytest.raises(SoftmapError, match="cannot be made 10 parameters within 1 %"):
        accounting.solve_intermediate_size(wanted, 10)


def test_widths_are_multiples_of_eight_where_parameters_stay_equal() -> None:
    def solved(hidden: int) -> tuple[int, float]:
        shape = (4096, hidden, 4, 16)
        target = accounting.parameters(ModelConfig("transformer++", *shape))["total"]
        wanted = ModelConfig("sas-p", *shape)
        width = accounting.solve_intermediate_size(wanted, target)
        wanted = dataclasses.replace(wanted, intermediate_size=width)
        return width, accounting.parameters(wanted)["total"] / target - 1

    wide, narrow = solved(1024), solved(32)
    assert wide[0] % 8 == 0 and abs(wide[1]) < 0.001
    assert narrow[0] % 8 != 0 and abs(narrow[1]) < 0.002


def test_maps_of_a_model_are_its_layers_maps() -> None:
    torch.manual_seed(0)
    model = perturb(Decoder(config("diff", backbone={"pattern": "LG", "window": 3}))).eval()
    ids = torch.randint(0, 100, (1, 6))
    maps = attention_maps(model, ids)
    assert [tuple(m.shape) for m in maps] == [(2, 6, 6)] * 2
    assert all(m.triu(1).eq(0).all() for m in maps)
    assert maps[0].tril(-3).eq(0).all() and not maps[1].tril(-3).eq(0).all()
    x = model.layers[0].attention_norm(model.embed_tokens(ids))
    torch.testing.assert_close(maps[0], model.layers[0].attention.maps(x)[0].detach())


def test_running_mean_does_not_see_what_padding_holds() -> None:
    layer = perturb(Attention(16, 4, "sas")).double().eval()
    x, mask = torch.randn(1, 5, 16).double(), torch.tensor([[0, 1, 1, 1, 1]])
    want = layer(x, key_mask=mask)[:, 1:]
    x[:, 0] = torch.nan
    cache = layer.new_cache()
    parts = [layer(x[:, :2], cache=cache, key_mask=mask[:, :2])]
    parts += [layer(x[:, 2:], cache=cache, key_mask=mask)]
    torch.testing.assert_close(torch.cat(parts, 1)[:, 1:], want)

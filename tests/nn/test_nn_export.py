"""``torch.export`` with open lengths: the program equals the layer at lengths it has not seen."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim

from softmap.errors import SoftmapError
from softmap.nn import Attention, Decoder, ModelConfig
from softmap.testing.subject import perturb
from softmap.variants import names

SIZES = ((1, 1), (1, 2), (3, 17), (2, 40))


def layer(variant: str, **options: object) -> Attention:
    torch.manual_seed(0)
    return perturb(Attention(16, 2, variant, **options)).double().eval()  # type: ignore[arg-type]


def exported(module: torch.nn.Module, *args: torch.Tensor, strict: bool = False) -> torch.nn.Module:
    tokens = Dim("tokens", min=1, max=4096)
    shapes = tuple({0: Dim.DYNAMIC, 1: tokens} for _ in args)
    return torch.export.export(module, args, dynamic_shapes=shapes, strict=strict).module()


@pytest.mark.parametrize("variant", names())
@pytest.mark.slow
def test_any_length_of_every_variant(variant: str) -> None:
    own = layer(variant)
    program = exported(own, torch.randn(2, 9, 16, dtype=torch.float64))
    for B, T in SIZES:
        x = torch.randn(B, T, 16, dtype=torch.float64)
        torch.testing.assert_close(program(x), own(x))


@pytest.mark.parametrize("variant", ["transformer++", "nope", "diff", "dape"])
@pytest.mark.slow
def test_strict_export_likewise(variant: str) -> None:
    own = layer(variant)
    program = exported(own, torch.randn(2, 9, 16, dtype=torch.float64), strict=True)
    for B, T in SIZES:
        x = torch.randn(B, T, 16, dtype=torch.float64)
        torch.testing.assert_close(program(x), own(x))


@pytest.mark.parametrize("variant", ["transformer++", "sas", "dcmha"])
@pytest.mark.slow
def test_windows_stay_open(variant: str) -> None:
    own = layer(variant, window=4)
    program = exported(own, torch.randn(2, 9, 16, dtype=torch.float64))
    for B, T in SIZES:
        x = torch.randn(B, T, 16, dtype=torch.float64)
        torch.testing.assert_close(program(x), own(x))


@pytest.mark.parametrize(
    "variant",
    [*(pytest.param(v, marks=pytest.mark.slow) for v in ("transformer++", "diff")), "dape"],
)
def test_model_takes_any_mask(variant: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(variant=variant, vocab_size=11, hidden_size=16, num_hidden_layers=2,
                         num_attention_heads=2, max_position_embeddings=64)  # fmt: skip
    model = perturb(Decoder(config)).double().eval()
    ids, mask = torch.randint(0, 11, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    mask[0, :2] = 0
    program = exported(model, ids, mask)
    for B, T in SIZES[1:]:
        ids, mask = torch.randint(0, 11, (B, T)), torch.ones(B, T, dtype=torch.long)
        torch.testing.assert_close(program(ids, mask), model(ids, mask))
        mask[0, :1] = 0
        real = mask.bool()
        torch.testing.assert_close(program(ids, mask)[real], model(ids, mask)[real])


def test_bands_have_no_open_length() -> None:
    with pytest.raises(SoftmapError, match=r"impl='chunked' cannot run this: .*torch.export"):
        exported(layer("nope", impl="chunked"), torch.randn(2, 9, 16, dtype=torch.float64))
